//! Making a tunnel on this host, and taking it down.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::agreement::{Terms, View};
use super::error::TunnelError;
use super::expect;
use super::in_use::{self, InUseError};
use super::spawn::{self, KeeperCommand};
use super::upkeep::{self, Upkeep};
use super::userspace;
use super::wireguard::{self, Backend, PrivateKey};
use crate::lock::Lock;
use crate::net::flows::apply;
use crate::net::flows::neighbours;
use crate::net::flows::port_forwards;
use crate::net::kernel::routes::Routes;
use crate::net::mark::Index;
use crate::net::rules;
use crate::net::state::{self, Claim, Dirs, Record};

/// A handshake older than this proves nothing: WireGuard has discarded its keys (REJECT_AFTER_TIME
/// in the WireGuard paper, section 6.1).
const HANDSHAKE_VALID: Duration = Duration::from_secs(180);

/// Whether WireGuard still uses the session that this handshake began.
pub(super) fn is_recent(handshake: SystemTime) -> bool {
    handshake.elapsed().is_ok_and(|age| age < HANDSHAKE_VALID)
}

/// Whether the tunnel's keeper lives and its interface is there.
pub(crate) fn is_alive(dirs: &Dirs, record: &Record) -> Result<bool, TunnelError> {
    Ok(spawn::is_alive(dirs, record.index)?
        && Routes::open()?
            .interface(&record.index.interface())?
            .is_some())
}

/// Reuses an existing tunnel, whose peer may have another address now.
///
/// While the two ends hear from each other WireGuard knows where the other one is, even if a name with
/// several addresses has resolved to another one this time. Setting the endpoint would end the session of
/// a userspace tunnel, and nothing would pass through it until the next handshake.
pub(super) fn reuse(
    dirs: &Dirs,
    mut record: Record,
    key: &PrivateKey,
    view: &View,
    endpoint: SocketAddr,
    claim: &Claim,
) -> Result<Record, TunnelError> {
    let heard = wireguard::last_handshake(&record.index.interface(), record.backend)?;
    if record.endpoint != endpoint && !heard.is_some_and(is_recent) {
        let interface = record.index.interface();
        wireguard::configure(&interface, record.backend, key, view, endpoint)?;
        record.endpoint = endpoint;
        record.write(dirs)?;
    }
    if record.claim(claim) {
        record.write(dirs)?;
    }
    // Its keeper may not have noticed yet what is missing.
    Upkeep::of(dirs, &record)?.put_back()?;
    Ok(record)
}

/// How many tunnels may exist that one host has introduced and whose other ends have not asked for them.
const MOST_INTRODUCED: usize = 16;

/// Makes a tunnel. The caller has the lock on all tunnels and a lease.
#[expect(
    clippy::too_many_arguments,
    reason = "each is one thing that a tunnel needs"
)]
pub(super) fn make(
    dirs: &Dirs,
    index: Index,
    terms: &Terms,
    key: &PrivateKey,
    view: &View,
    endpoint: SocketAddr,
    claim: &Claim,
    keeper: KeeperCommand,
) -> Result<Record, TunnelError> {
    remove_orphan(dirs, view)?;
    if let Claim::Introduced(by) = claim {
        let all = Record::read_all(dirs)?.into_iter();
        let introduced = all.filter(|r| !r.is_owned() && r.introduced_by.contains(by));
        let count = introduced.count();
        if count >= MOST_INTRODUCED {
            return Err(TunnelError::TooManyIntroduced(count));
        }
    }
    let in_use = in_use::gather(&[])?;
    if let Some((_, why)) = in_use.indexes.into_iter().find(|(i, _)| *i == index) {
        return Err(TunnelError::Taken(index, why));
    }
    if terms.agreement.overlaps(&in_use.prefixes) {
        let why = "its networks are in use here".to_owned();
        return Err(TunnelError::Taken(index, why));
    }
    let mut record = Record {
        index,
        agreement: terms.agreement.clone(),
        public_key: key.public(),
        endpoint,
        backend: Backend::Userspace,
        client: None,
        server: None,
        introduced_by: Vec::new(),
    };
    record.claim(claim);
    record.write(dirs)?;
    let made = state::write(&dirs.file(index, "ticket"), &terms.ticket)
        .map_err(TunnelError::from)
        .and_then(|()| make_recorded(dirs, &mut record, key, view, keeper));
    if made.is_err()
        && let Err(error) = demolish(dirs, &record)
    {
        tracing::error!(interface = index.interface(), "not taken down: {error}");
    }
    made.map(|()| record)
}

/// Removes a tunnel to the same port of the same host, if that host has lost its half: that port is about
/// to serve the new tunnel. The keys are the same, so an orphan left alone would exchange handshakes with
/// the new half, and get the answers meant for this one.
fn remove_orphan(dirs: &Dirs, view: &View) -> Result<(), TunnelError> {
    for record in Record::read_all(dirs)? {
        if record.view().is_ok_and(|orphan| orphan.peer == view.peer)
            && let Some(_lease) = Lock::try_exclusive(&dirs.lease(record.index))?
        {
            let interface = record.index.interface();
            tracing::warn!(interface, "the other host has lost its half of the tunnel");
            demolish(dirs, &record)?;
        }
    }
    Ok(())
}

fn make_recorded(
    dirs: &Dirs,
    record: &mut Record,
    key: &PrivateKey,
    view: &View,
    keeper: KeeperCommand,
) -> Result<(), TunnelError> {
    let interface = record.index.interface();
    let routes = Routes::open()?;
    if routes.add_wireguard(&interface)? {
        // Before the keeper starts: the record tells it whether it has to run WireGuard itself.
        record.backend = Backend::Kernel;
        record.write(dirs)?;
    }
    spawn::spawn(dirs, record, keeper)?;
    wireguard::configure(&interface, record.backend, key, view, record.endpoint)?;
    upkeep::lead_in(&routes, record.index, &view.addresses)?;
    rules::tunnel::add_tunnel(record.index, view)?;
    tracing::info!(interface, endpoint = %record.endpoint, backend = ?record.backend, "tunnel is up");
    Ok(())
}

/// Removes everything that a record stands for, newest first, and then the record. It can be repeated,
/// and does not matter how much was ever made. The caller has the lock on all tunnels.
fn demolish(dirs: &Dirs, record: &Record) -> Result<(), TunnelError> {
    let index = record.index;
    let interface = index.interface();
    let others = Record::read_all(dirs)?
        .iter()
        .any(|other| other.index != index);
    if others {
        rules::tunnel::remove_tunnel(index)?;
    } else {
        rules::tunnel::remove_table()?;
    }
    let flows = apply::through_tunnels().map_err(InUseError::from)?;
    let own = record.view().map(|view| view.addresses).unwrap_or_default();
    neighbours::hand_on_addresses(index, &own, &flows)?;
    let routes = Routes::open()?;
    routes.unroute(index)?;
    routes.delete_interface(&interface)?;
    userspace::clean(&interface)
        .map_err(|source| state::file_error(userspace::socket(&interface), source))?;
    // This includes entries that we made in advance: they would stay for up to 30 s.
    expect::forget(&own).map_err(InUseError::from)?;
    neighbours::tidy(&flows)?;
    record.remove(dirs)?;
    tracing::info!(interface, "tunnel is down");
    Ok(())
}

/// Takes a tunnel down unless somebody has a lease on it, flows or forwards use it, the other end needs it for its
/// forwards, or packets of any tunnel wait just now.
pub(crate) fn take_down_if_idle(dirs: &Dirs, index: Index) -> Result<bool, TunnelError> {
    // The lease before the lock on all tunnels: whoever has that lock never waits for a lease.
    let Some(_lease) = Lock::try_exclusive(&dirs.lease(index))? else {
        return Ok(false);
    };
    let _lock = dirs.lock_all()?;
    let Some(_none_wait) = dirs.none_wait()? else {
        return Ok(false);
    };
    // Not by whoever cleans up, either: only the keeper knows what the other end asks.
    let Some(_not_asked) = Lock::try_exclusive(&dirs.stay(index))? else {
        return Ok(false);
    };
    let Some(record) = Record::read(dirs, index)? else {
        return Ok(true);
    };
    if spawn::flows(index).map_err(InUseError::from)? > 0
        || !port_forwards::of_tunnel(dirs, index)?.is_empty()
    {
        return Ok(false);
    }
    demolish(dirs, &record)?;
    Ok(true)
}

/// Cleans up after keepers that died: a kernel tunnel gets a new keeper; a userspace tunnel died
/// with its keeper and is removed. Call it when an agent starts, and before tunnels are offered.
/// Tunnels that somebody has a lease on are left alone.
pub fn sweep(dirs: &Dirs, keeper: KeeperCommand) -> Result<(), TunnelError> {
    let _lock = dirs.lock_all()?;
    for record in Record::read_all(dirs)? {
        let index = record.index;
        if spawn::is_alive(dirs, index)? {
            continue;
        }
        let Some(_lease) = Lock::try_exclusive(&dirs.lease(index))? else {
            continue;
        };
        let interface = index.interface();
        let there = Routes::open()?.interface(&interface)?.is_some();
        if record.backend == Backend::Kernel && there {
            tracing::warn!(interface, "the tunnel's keeper is gone: starting another");
            spawn::spawn(dirs, &record, keeper)?;
        } else {
            tracing::warn!(interface, "removing what is left of a dead tunnel");
            demolish(dirs, &record)?;
        }
    }
    Ok(())
}
