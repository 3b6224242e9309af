//! New connections to ports that a container had published on this host before it moved away.
//!
//! A [`Forward`] sends them after the container, through the tunnel that it left by, until the forward is
//! removed or the container comes back. It is prepared before the commit, so that a crash in between loses
//! nothing, and works from the commit on. Addresses are translated here as Podman did, the connmark
//! names the tunnel, and the rest is as for connections that have moved.
//!
//! The tunnel's keeper binds the ports, without listening: a program that wants one of them is told at once
//! that it is in use, instead of waiting for connections that go elsewhere.
//!
//! Forwards are stored in `tunnels/lmwgN.forwards`, which goes with the tunnel. While there is one, the keeper
//! keeps the tunnel and has the other end keep its half.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};

use super::port_forward::{Forward, ForwardState, specific};
use crate::container::facts::PublishedPort;
use crate::lock::LockError;
use crate::net::mark::Index;
use crate::net::rules;
use crate::net::rules::nft::FirewallError;
use crate::net::state::{self, Dirs, StateError};

/// How long a keeper may take to let go of ports that were lent.
const LEND: Duration = Duration::from_secs(5);
/// Pause between checks whether it has.
const POLL: Duration = Duration::from_millis(50);

/// New connections cannot be sent after a container.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The tunnels' files.
    #[error(transparent)]
    State(#[from] StateError),
    /// Firewall rules.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The tunnels' lock.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// Prepares a forward through a tunnel. Undone by [`remove`].
///
/// # Errors
/// Those of the tunnel's files.
pub fn prepare(dirs: &Dirs, tunnel: Index, forward: Forward) -> Result<(), ForwardError> {
    let _lock = dirs.lock_all()?;
    add(dirs, tunnel, forward)
}

/// Activates the forward for a container, if there is one: call it when the container has moved, or when
/// it has not come back after all.
///
/// # Errors
/// Those of the tunnel's files and of the firewall.
pub fn activate(dirs: &Dirs, container: &str) -> Result<(), ForwardError> {
    set(dirs, container, ForwardState::Active).map(drop)
}

/// Unbinds the ports of a container that is about to come back. Undone by [`activate`].
///
/// # Errors
/// Those of the tunnel's files and of the firewall.
pub fn lend(dirs: &Dirs, container: &str) -> Result<(), ForwardError> {
    let Some(forward) = set(dirs, container, ForwardState::Lent)? else {
        return Ok(());
    };
    let deadline = Instant::now() + LEND;
    // If one stays in use Podman will say which.
    while !forward.ports.iter().all(|p| bind(p).is_ok()) && Instant::now() < deadline {
        thread::sleep(POLL);
    }
    Ok(())
}

/// Ends the forward for a container. Connections that it has begun go on. Returns it, if there was
/// one.
///
/// # Errors
/// Those of the tunnel's files and of the firewall.
pub fn remove(dirs: &Dirs, container: &str) -> Result<Option<Forward>, ForwardError> {
    let _lock = dirs.lock_all()?;
    let mut removed = None;
    for (index, mut forwards) in all(dirs)? {
        if let Some(at) = forwards.iter().position(|f| f.container.id == container) {
            removed = Some(forwards.remove(at));
            apply(dirs, index, &forwards)?;
        }
    }
    Ok(removed)
}

/// The forwards of this host, with the tunnels that they use.
///
/// # Errors
/// Those of the tunnels' files.
pub fn list(dirs: &Dirs) -> Result<Vec<(Index, Forward)>, ForwardError> {
    let forwards = all(dirs)?.into_iter();
    Ok(forwards
        .flat_map(|(index, forwards)| forwards.into_iter().map(move |f| (index, f)))
        .collect())
}

/// Has the forward for a container that is reached through `from` use `to` instead. Returns whether
/// there was one.
pub(crate) fn follow(
    dirs: &Dirs,
    container: &str,
    from: Index,
    to: Index,
) -> Result<bool, ForwardError> {
    let _lock = dirs.lock_all()?;
    let mut forwards = of_tunnel(dirs, from)?;
    let Some(at) = forwards.iter().position(|f| f.container.id == container) else {
        return Ok(false);
    };
    // The new one first: while both exist the old one still comes first.
    add(dirs, to, forwards.remove(at))?;
    apply(dirs, from, &forwards)?;
    Ok(true)
}

/// The forwards that use a tunnel.
pub(crate) fn of_tunnel(dirs: &Dirs, index: Index) -> Result<Vec<Forward>, ForwardError> {
    Ok(state::read(&dirs.forwards(index))?.unwrap_or_default())
}

fn all(dirs: &Dirs) -> Result<Vec<(Index, Vec<Forward>)>, ForwardError> {
    Index::all()
        .map(|index| Ok((index, of_tunnel(dirs, index)?)))
        .collect()
}

fn set(dirs: &Dirs, container: &str, state: ForwardState) -> Result<Option<Forward>, ForwardError> {
    let _lock = dirs.lock_all()?;
    for (index, mut forwards) in all(dirs)? {
        if let Some(forward) = forwards.iter_mut().find(|f| f.container.id == container) {
            forward.state = state;
            let forward = forward.clone();
            apply(dirs, index, &forwards)?;
            return Ok(Some(forward));
        }
    }
    Ok(None)
}

fn add(dirs: &Dirs, index: Index, forward: Forward) -> Result<(), ForwardError> {
    let mut forwards = of_tunnel(dirs, index)?;
    forwards.retain(|f| f.container.id != forward.container.id);
    forwards.push(forward);
    apply(dirs, index, &forwards)
}

/// Makes these the forwards of a tunnel. They are recorded first: whatever is on record can be removed.
fn apply(dirs: &Dirs, index: Index, forwards: &[Forward]) -> Result<(), ForwardError> {
    state::write(&dirs.forwards(index), &forwards)?;
    let working: Vec<_> = forwards
        .iter()
        .filter(|f| f.state != ForwardState::Prepared)
        .collect();
    Ok(rules::port_forward::forward(index, &working)?)
}

/// How many rules the forwards of a tunnel have in each of its chains.
pub(crate) fn ways(dirs: &Dirs, index: Index) -> Result<usize, ForwardError> {
    let forwards = of_tunnel(dirs, index)?;
    let working = forwards
        .iter()
        .filter(|f| f.state != ForwardState::Prepared);
    Ok(working.map(|forward| forward.ways().count()).sum())
}

/// Recreates the rules of a tunnel's forwards. The caller has the lock on all tunnels.
pub(crate) fn put_back(dirs: &Dirs, index: Index) -> Result<(), ForwardError> {
    apply(dirs, index, &of_tunnel(dirs, index)?)
}

/// Ports that a keeper has bound.
#[derive(Debug, Default)]
pub(crate) struct Bound(BTreeMap<String, OwnedFd>);

impl Bound {
    /// Binds the ports of the active ones of these forwards, if they are free, and releases all others.
    pub(crate) fn update(&mut self, forwards: &[Forward]) {
        let active = forwards.iter().filter(|f| f.state == ForwardState::Active);
        let ports: Vec<_> = active.flat_map(|f| &f.ports).collect();
        self.0
            .retain(|name, _| ports.iter().any(|port| port.to_string() == *name));
        for port in ports {
            let name = port.to_string();
            if self.0.contains_key(&name) {
                continue;
            }
            // Podman may still have it, or another program was faster, which gets no connections then.
            match bind(port) {
                Ok(Some(socket)) => drop(self.0.insert(name, socket)),
                Ok(None) => {}
                Err(error) => tracing::debug!("port {name}: {error}"),
            }
        }
    }
}

/// Binds a port without listening at it: a connection would be refused. `None` for a protocol that has
/// nothing to bind.
fn bind(port: &PublishedPort) -> nix::Result<Option<OwnedFd>> {
    let kind = match port.protocol.as_str() {
        "tcp" => SockType::Stream,
        "udp" => SockType::Datagram,
        _ => return Ok(None),
    };
    let address = specific(port).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    let address = SockaddrStorage::from(SocketAddr::new(address, port.host_port));
    socket::bind(socket.as_raw_fd(), &address)?;
    Ok(Some(socket))
}
