//! The process that stays with a tunnel.
//!
//! Every tunnel has one on each of its hosts. It outlives the command that made the tunnel, moves
//! the packets if the kernel cannot, binds the ports of forwards, and takes the tunnel down on its host
//! when, for [`IDLE`], no flow was marked for it, no forward used it at either end, and nobody had a
//! lease on it.

use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::TunnelError;
use super::bypass::{self, Stay};
use super::lifecycle;
use super::spawn::{POLL, START, flows};
use super::upkeep::Upkeep;
use super::userspace::{self, UserspaceError};
use super::wireguard::Backend;
use crate::lock::Lock;
use crate::net::flows::port_forwards::{self, Bound};
use crate::net::mark::Index;
use crate::net::rules::owned::OwnedTable;
use crate::net::state::{Dirs, Record};
use crate::systemd;

/// How long a tunnel must be idle before it is taken down: long enough for the next migration of
/// a series to find it.
pub const IDLE: Duration = Duration::from_secs(10);
/// Pause between looks at the flows.
const TICK: Duration = Duration::from_secs(1);

/// A keeper ended otherwise than by taking its tunnel down.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The tunnel's files, or its removal.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// There is no such tunnel.
    #[error("there is no record of tunnel {0}")]
    NoRecord(Index),
    /// The tunnel has a keeper already.
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

/// The keeper's whole life. Returns when the tunnel is down, whoever took it down.
///
/// Call it in a process of its own, which leaves its session and its working directory: neither Ctrl-C
/// nor the end of a login reaches it.
///
/// `keeper` starts other keepers, for the tunnels that a bypass needs.
pub fn run(dirs: &Dirs, index: Index, keeper: fn(Index) -> Command) -> Result<(), KeeperError> {
    // Fails if this process leads a group already, and then has nothing to leave.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")?;
    // The service or login session that made the tunnel must not end it when it ends itself.
    let scope = format!("live-migration-tunnel-{index}-{}", std::process::id());
    if let Err(error) = systemd::enter_scope(&scope) {
        tracing::warn!("the tunnel ends with what made it: {error}");
    }

    let _lock = be_alone(dirs, index)?;
    let record = Record::read(dirs, index)
        .map_err(TunnelError::from)?
        .ok_or(KeeperError::NoRecord(index))?;
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
    runtime.spawn(bypass::serve(
        dirs.clone(),
        record.clone(),
        keeper,
        stay.clone(),
    ));
    runtime.spawn(bypass::ask_to_stay(dirs.clone(), index));
    let mut upkeep = Upkeep::of(dirs, &record)?;
    let mut own_rules = OwnRules::Untried;
    let mut bound = Bound::default();
    let mut idle_since = None;
    let mut asked = None;
    while Record::exists(dirs, index) {
        if device.as_ref().is_some_and(|device| device.is_finished()) {
            break;
        }
        if let Err(error) = bypass::expect(&record) {
            tracing::debug!("{error}");
        }
        own_rules.look(index);
        if let Err(error) = upkeep.look() {
            tracing::warn!("what the tunnel needs may be missing: {error}");
        }
        let forwards = port_forwards::of_tunnel(dirs, index).map_err(TunnelError::from)?;
        bound.update(&forwards);
        if !stay.is_asked() {
            asked = None;
        } else if asked.is_none() {
            asked = Lock::try_shared(&dirs.stay(index)).map_err(TunnelError::from)?;
        }
        if !forwards.is_empty() || asked.is_some() || is_busy(dirs, index)? {
            idle_since = None;
        } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= IDLE
            && lifecycle::take_down_if_idle(dirs, index)?
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

/// The rules that only this process can remove.
enum OwnRules {
    Untried,
    There(OwnedTable),
    Impossible,
}

impl OwnRules {
    /// Makes them, or again if somebody has ended the program that has them.
    fn look(&mut self, index: Index) {
        let settled = match self {
            OwnRules::Untried => false,
            OwnRules::There(table) => table.lives(),
            OwnRules::Impossible => true,
        };
        if settled {
            return;
        }
        *self = match OwnedTable::make(index) {
            Ok(table) => OwnRules::There(table),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => OwnRules::Untried,
            Err(error) => {
                tracing::info!(
                    "whoever flushes the firewall's rules disturbs connections: {error}"
                );
                OwnRules::Impossible
            }
        };
    }
}

/// Locks out other keepers. Checking for a keeper takes the lock for a moment, which must not be
/// mistaken for one: hence the retries.
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

/// Whether flows use the tunnel or somebody has a lease on it. What cannot be read counts as
/// busy: a tunnel too many does less harm than one too few.
fn is_busy(dirs: &Dirs, index: Index) -> Result<bool, TunnelError> {
    let flows = flows(index).unwrap_or_else(|error| {
        tracing::warn!("cannot count flows: {error}");
        1
    });
    Ok(flows > 0 || Lock::try_exclusive(&dirs.lease(index))?.is_none())
}
