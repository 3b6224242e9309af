//! Starting a tunnel's keeper, and finding out whether it lives.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use conntrack::{Conntrack, Filter};

use super::userspace;
use super::wireguard::Backend;
use crate::lock::{Lock, LockError};
use crate::net::mark::{Direction, Index, Mark};
use crate::net::state::{Dirs, Record};

/// There is no keeper.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// It did not start.
    #[error("the tunnel's keeper did not start: {0}")]
    NotStarted(String),
    /// Its lock.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// How long a keeper may take to be ready.
pub(super) const START: Duration = Duration::from_secs(5);
/// Pause between checks whether it is.
pub(super) const POLL: Duration = Duration::from_millis(10);

/// How a tunnel's keeper is started: the command that ends up in [`super::keeper::run`] for this index
/// and the same [`Dirs`]. [`spawn`] sets its standard streams; the keeper detaches itself.
pub type KeeperCommand<'a> = &'a dyn Fn(Index) -> Command;

/// How many tracked connections are marked for the tunnel, in either direction.
///
/// The kernel selects them. A connection that names the tunnel in both directions counts twice.
pub fn flows(index: Index) -> conntrack::Result<usize> {
    let mut table = Conntrack::open()?;
    let mut count = 0;
    for direction in Direction::BOTH {
        let value = Mark(0).with(direction, Some(index)).0;
        let filter = Filter {
            mark: Some(conntrack::MaskedMark::masked(value, direction.mask())),
            ..Filter::default()
        };
        count += table.list(filter)?.len();
    }
    Ok(count)
}

/// Whether the tunnel's keeper lives.
pub fn is_alive(dirs: &Dirs, index: Index) -> Result<bool, SpawnError> {
    Ok(Lock::try_shared(&dirs.keeper(index))?.is_none())
}

/// Starts a keeper and waits until it is ready.
pub(crate) fn spawn(dirs: &Dirs, record: &Record, keeper: KeeperCommand) -> Result<(), SpawnError> {
    let failed = |error: io::Error| SpawnError::NotStarted(error.to_string());
    let log = dirs.log(record.index);
    let mut child = keeper(record.index)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).map_err(failed)?)
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + START;
    while !is_ready(dirs, record)? {
        let ended = child.try_wait().map_err(failed)?.is_some();
        if ended || Instant::now() > deadline {
            // Either it has ended already or it must not go on: nothing to do if this fails.
            let _ = child.kill();
            let _ = child.wait();
            return Err(SpawnError::NotStarted(last_words(&log)));
        }
        thread::sleep(POLL);
    }
    // It outlives a command, but a server outlives it, and must then collect its exit status.
    thread::spawn(move || child.wait());
    Ok(())
}

fn is_ready(dirs: &Dirs, record: &Record) -> Result<bool, SpawnError> {
    let interface = record.index.interface();
    Ok(is_alive(dirs, record.index)?
        && (record.backend == Backend::Kernel
            || UnixStream::connect(userspace::socket(&interface)).is_ok()))
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    match text.trim().lines().last() {
        Some(line) => line.into(),
        None => format!("it said nothing in {}", log.display()),
    }
}
