//! New connections to ports that a container had published on this host before it moved away.
//!
//! A [`Forward`] sends them after it, through the tunnel that it has left by, until it is removed or
//! the container comes back. It is prepared before the commit, so that a crash in between loses
//! nothing, and works from the commit on: addresses are translated here as Podman did, the connmark
//! names the tunnel, and the rest is as for connections that have moved.
//!
//! The tunnel's keeper binds the ports, without listening. Whoever wants one of them is told at once
//! that it is in use, instead of waiting for connections that go elsewhere.
//!
//! Kept in `tunnels/lmwgN.forwards`, which goes with the tunnel; the keeper keeps the tunnel while
//! there is one, and has the other end keep its half.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};
use serde::{Deserialize, Serialize};

use super::firewall;
use super::mark::Index;
use super::tunnel::{self, Dirs, Tunnel, TunnelError};
use crate::container::facts::{ContainerFacts, PublishedPort};
use crate::protocol::ContainerRef;

/// How long a keeper may take to let go of ports that were lent.
const LEND: Duration = Duration::from_secs(5);
/// Pause between looks whether it has.
const POLL: Duration = Duration::from_millis(50);

/// What a forward does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing yet: the container is about to move.
    Prepared,
    /// New connections go to the container, and its ports here are bound.
    Active,
    /// New connections go to the container, but the ports are not bound: Podman binds them for its
    /// return.
    Lent,
}

/// Sends new connections to a container that has moved away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The container.
    pub container: ContainerRef,
    /// The ports that it had published here.
    pub ports: Vec<PublishedPort>,
    /// Where they go: one address of each family that it has.
    pub addresses: Vec<IpAddr>,
    /// What it does at the moment.
    pub state: State,
}

impl Forward {
    /// For a container of this host.
    pub fn of(container: &ContainerFacts) -> Self {
        let all = container.addresses();
        let first = |ipv6| all.iter().copied().find(|a| a.is_ipv6() == ipv6);
        Forward {
            container: container.reference(),
            ports: container.ports.clone(),
            addresses: [first(false), first(true)].into_iter().flatten().collect(),
            state: State::Prepared,
        }
    }

    /// Each of its ports with the address behind it.
    pub(super) fn ways(&self) -> impl Iterator<Item = (&PublishedPort, IpAddr)> {
        self.ports.iter().flat_map(|port| {
            let fits = |to: &&IpAddr| {
                let asked = specific(port);
                asked.is_none_or(|asked| asked.is_ipv6() == to.is_ipv6())
            };
            self.addresses
                .iter()
                .filter(fits)
                .map(move |to| (port, *to))
        })
    }
}

/// The one address of the host that a port is published at, unless it is at all of them.
pub(super) fn specific(port: &PublishedPort) -> Option<IpAddr> {
    port.host_address
        .filter(|address| !address.is_unspecified())
}

/// Prepares a forward through a tunnel. Undone by [`remove`].
///
/// # Errors
/// Those of the tunnel's files.
pub fn prepare(dirs: &Dirs, tunnel: &Tunnel, forward: Forward) -> Result<(), TunnelError> {
    let _turn = dirs.turn()?;
    add(dirs, tunnel.index(), forward)
}

/// Has the forward for a container, if there is one, work from now on: when it has moved, or when it
/// has not come back after all.
///
/// # Errors
/// Those of the tunnel's files and of the firewall.
pub fn activate(dirs: &Dirs, container: &str) -> Result<(), TunnelError> {
    set(dirs, container, State::Active).map(drop)
}

/// Unbinds the ports of a container that is about to come back. Undone by [`activate`].
///
/// # Errors
/// Those of the tunnel's files and of the firewall.
pub fn lend(dirs: &Dirs, container: &str) -> Result<(), TunnelError> {
    let Some(forward) = set(dirs, container, State::Lent)? else {
        return Ok(());
    };
    let deadline = Instant::now() + LEND;
    // Podman says which one it is that it cannot bind.
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
pub fn remove(dirs: &Dirs, container: &str) -> Result<Option<Forward>, TunnelError> {
    let _turn = dirs.turn()?;
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
pub fn list(dirs: &Dirs) -> Result<Vec<(Index, Forward)>, TunnelError> {
    let forwards = all(dirs)?.into_iter();
    Ok(forwards
        .flat_map(|(index, forwards)| forwards.into_iter().map(move |f| (index, f)))
        .collect())
}

/// Has the forward for a container that is reached through `from` use `to` instead. Returns whether
/// there was one.
pub(super) fn follow(
    dirs: &Dirs,
    container: &str,
    from: Index,
    to: Index,
) -> Result<bool, TunnelError> {
    let _turn = dirs.turn()?;
    let mut forwards = of_tunnel(dirs, from)?;
    let Some(at) = forwards.iter().position(|f| f.container.id == container) else {
        return Ok(false);
    };
    // The new one first: in between both are there, and the old one is asked first.
    add(dirs, to, forwards.remove(at))?;
    apply(dirs, from, &forwards)?;
    Ok(true)
}

/// The forwards that use a tunnel.
pub(super) fn of_tunnel(dirs: &Dirs, index: Index) -> Result<Vec<Forward>, TunnelError> {
    Ok(tunnel::read(&dirs.forwards(index))?.unwrap_or_default())
}

fn all(dirs: &Dirs) -> Result<Vec<(Index, Vec<Forward>)>, TunnelError> {
    Index::all()
        .map(|index| Ok((index, of_tunnel(dirs, index)?)))
        .collect()
}

fn set(dirs: &Dirs, container: &str, state: State) -> Result<Option<Forward>, TunnelError> {
    let _turn = dirs.turn()?;
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

fn add(dirs: &Dirs, index: Index, forward: Forward) -> Result<(), TunnelError> {
    let mut forwards = of_tunnel(dirs, index)?;
    forwards.retain(|f| f.container.id != forward.container.id);
    forwards.push(forward);
    apply(dirs, index, &forwards)
}

/// Makes these the forwards of a tunnel. Written down first: whatever is on record can be removed.
fn apply(dirs: &Dirs, index: Index, forwards: &[Forward]) -> Result<(), TunnelError> {
    tunnel::write(&dirs.forwards(index), &forwards)?;
    let working: Vec<_> = forwards
        .iter()
        .filter(|f| f.state != State::Prepared)
        .collect();
    Ok(firewall::forward(index, &working)?)
}

/// How many rules the forwards of a tunnel have in each of its chains.
pub(super) fn ways(dirs: &Dirs, index: Index) -> Result<usize, TunnelError> {
    let forwards = of_tunnel(dirs, index)?;
    let working = forwards.iter().filter(|f| f.state != State::Prepared);
    Ok(working.map(|forward| forward.ways().count()).sum())
}

/// Makes the rules of a tunnel's forwards anew. The caller has its turn.
pub(super) fn put_back(dirs: &Dirs, index: Index) -> Result<(), TunnelError> {
    apply(dirs, index, &of_tunnel(dirs, index)?)
}

/// Ports that a keeper has bound.
#[derive(Debug, Default)]
pub(super) struct Bound(BTreeMap<String, OwnedFd>);

impl Bound {
    /// Binds the ports of the active ones of these, as far as it does not yet and they are free, and
    /// lets go of all others.
    pub(super) fn update(&mut self, forwards: &[Forward]) {
        let active = forwards.iter().filter(|f| f.state == State::Active);
        let ports: Vec<_> = active.flat_map(|f| &f.ports).collect();
        self.0
            .retain(|name, _| ports.iter().any(|port| port.to_string() == *name));
        for port in ports {
            let name = port.to_string();
            if self.0.contains_key(&name) {
                continue;
            }
            // Podman may still have it, or a program that was faster: that gets no connections.
            match bind(port) {
                Ok(Some(socket)) => drop(self.0.insert(name, socket)),
                Ok(None) => {}
                Err(error) => tracing::debug!("port {name}: {error}"),
            }
        }
    }
}

/// Binds a port without listening at it: a connection would be refused. None if there is nothing to
/// bind for this protocol.
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
