//! The process that stays with a tunnel.
//!
//! Every tunnel has one on each of its hosts. It outlives the command that made the tunnel, moves
//! the packets if the kernel cannot, binds the ports of forwards, and takes the tunnel down on its host
//! once no flow is marked for it, no forward uses it at either end, and nobody has a lease on it, for
//! [`IDLE`].

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use conntrack::{Conntrack, Filter};

use super::introduction::{self, Stay};
use super::mark::{Direction, Index, Mark};
use super::published::{self, Bound};
use super::tunnel::{self, Dirs, KeeperCommand, Record, TunnelError};
use super::upkeep::Upkeep;
use super::userspace::{self, UserspaceError};
use super::wireguard::Backend;
use crate::lock::Lock;
use crate::systemd;

/// How long a tunnel must be idle before it is taken down: long enough for the next migration of
/// a series to find it.
pub const IDLE: Duration = Duration::from_secs(10);
/// Pause between looks at the flows.
const TICK: Duration = Duration::from_secs(1);
/// How long a keeper may take to be ready.
const START: Duration = Duration::from_secs(5);
/// Pause between looks whether it is.
const POLL: Duration = Duration::from_millis(10);

/// A keeper ended otherwise than by taking its tunnel down.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The tunnel's files, or its removal.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// There is no such tunnel.
    #[error("there is no record of tunnel {0}")]
    NoRecord(Index),
    /// It has one already.
    #[error("tunnel {0} has a keeper already")]
    NotAlone(Index),
    /// This process could not be set up.
    #[error("cannot set up the keeper: {0}")]
    Process(#[from] io::Error),
    /// The userspace implementation ended.
    #[error("the userspace WireGuard of tunnel {0} ended: {1}")]
    Device(Index, UserspaceError),
    /// Its device was deleted under it.
    #[error("the interface of tunnel {0} was deleted")]
    Deleted(Index),
}

/// How many tracked connections are marked for the tunnel, in either direction.
///
/// The kernel does the picking; a connection that names the tunnel in both directions counts twice.
pub fn flows(index: Index) -> conntrack::Result<usize> {
    let mut table = Conntrack::open()?;
    let mut count = 0;
    for direction in Direction::BOTH {
        let value = Mark(0).with(direction, Some(index)).0;
        let filter = Filter {
            mark: Some(conntrack::Mark::masked(value, direction.mask())),
            ..Filter::default()
        };
        count += table.list(filter)?.len();
    }
    Ok(count)
}

/// Whether the tunnel's keeper lives.
pub fn is_alive(dirs: &Dirs, index: Index) -> Result<bool, TunnelError> {
    Ok(Lock::try_shared(&dirs.keeper(index))?.is_none())
}

/// Starts a keeper and waits until it is ready.
pub(super) fn spawn(
    dirs: &Dirs,
    record: &Record,
    keeper: KeeperCommand,
) -> Result<(), TunnelError> {
    let failed = |error: io::Error| TunnelError::Keeper(error.to_string());
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
            // Nothing to end, or nothing that could be left running.
            let _ = child.kill();
            let _ = child.wait();
            return Err(TunnelError::Keeper(last_words(&log)));
        }
        thread::sleep(POLL);
    }
    // It outlives a command, but a server outlives it: somebody must collect its exit status.
    thread::spawn(move || child.wait());
    Ok(())
}

fn is_ready(dirs: &Dirs, record: &Record) -> Result<bool, TunnelError> {
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

/// The keeper's whole life. Returns when the tunnel is down, whoever took it down.
///
/// For a process of its own: it leaves its session, so that neither Ctrl-C nor the end of a login
/// reaches it, and its working directory.
///
/// `keeper` starts others of its kind, for the tunnels that it is introduced to.
pub fn run(dirs: &Dirs, index: Index, keeper: fn(Index) -> Command) -> Result<(), KeeperError> {
    // Fails if this process leads a group already, and then has nothing to leave.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")?;
    // Whose service or login session made the tunnel must not take it along when it ends.
    let scope = format!("live-migration-tunnel-{index}-{}", std::process::id());
    if let Err(error) = systemd::enter_scope(&scope) {
        tracing::warn!("the tunnel ends with what made it: {error}");
    }

    let _lock = be_alone(dirs, index)?;
    let record = Record::read(dirs, index)?.ok_or(KeeperError::NoRecord(index))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let device = match record.backend {
        Backend::Kernel => None,
        Backend::Userspace => {
            let interface = index.interface();
            Some(runtime.spawn(async move { userspace::run(&interface).await }))
        }
    };
    let stay = Stay::default();
    runtime.spawn(introduction::serve(
        dirs.clone(),
        record.clone(),
        keeper,
        stay.clone(),
    ));
    runtime.spawn(introduction::ask_to_stay(dirs.clone(), index));
    let mut upkeep = Upkeep::of(dirs, &record)?;
    let mut bound = Bound::default();
    let mut idle_since = None;
    while Record::exists(dirs, index) {
        if device.as_ref().is_some_and(|device| device.is_finished()) {
            break;
        }
        if let Err(error) = introduction::expect(&record) {
            tracing::debug!("{error}");
        }
        if let Err(error) = upkeep.look() {
            tracing::warn!("what the tunnel needs may be missing: {error}");
        }
        let forwards = published::of_tunnel(dirs, index)?;
        bound.update(&forwards);
        if !forwards.is_empty() || stay.is_asked() || is_busy(dirs, index)? {
            idle_since = None;
        } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= IDLE
            && tunnel::take_down_if_idle(dirs, index)?
        {
            return Ok(());
        }
        thread::sleep(TICK);
    }
    if !Record::exists(dirs, index) {
        return Ok(());
    }
    match device.map(|device| runtime.block_on(device)) {
        Some(Ok(Err(error))) => Err(KeeperError::Device(index, error)),
        _ => Err(KeeperError::Deleted(index)),
    }
}

/// Locks out other keepers. Who looks whether there is one has the lock for a moment: that must
/// not be taken for a keeper.
fn be_alone(dirs: &Dirs, index: Index) -> Result<Lock, KeeperError> {
    let deadline = Instant::now() + START / 2;
    loop {
        match Lock::try_exclusive(&dirs.keeper(index)).map_err(TunnelError::from)? {
            Some(lock) => return Ok(lock),
            None if Instant::now() < deadline => thread::sleep(POLL),
            None => return Err(KeeperError::NotAlone(index)),
        }
    }
}

/// Whether the tunnel carries flows or somebody has a lease on it. What cannot be read counts as
/// busy: a tunnel too many does less harm than one too few.
fn is_busy(dirs: &Dirs, index: Index) -> Result<bool, TunnelError> {
    let flows = flows(index).unwrap_or_else(|error| {
        tracing::warn!("cannot count flows: {error}");
        1
    });
    Ok(flows > 0 || Lock::try_exclusive(&dirs.lease(index))?.is_none())
}
