//! Why a tunnel could not be made, used or taken down.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::agreement::AgreementError;
use super::in_use::InUseError;
use super::spawn::SpawnError;
use super::wireguard::WireguardError;
use crate::lock::LockError;
use crate::net::flows::neighbours::NeighbourError;
use crate::net::flows::port_forwards::ForwardError;
use crate::net::kernel::routes::RouteError;
use crate::net::kernel::sysctl::SysctlError;
use crate::net::mark::Index;
use crate::net::rules::nft::FirewallError;
use crate::net::state::StateError;

/// Why a tunnel could not be made, used or taken down.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The hosts could not agree on a tunnel.
    #[error(transparent)]
    Plan(#[from] AgreementError),
    /// The host's state could not be read.
    #[error(transparent)]
    InUse(#[from] InUseError),
    /// Interface, address, route or rule.
    #[error(transparent)]
    Routes(#[from] RouteError),
    /// Neighbour entries.
    #[error(transparent)]
    Neighbours(#[from] NeighbourError),
    /// Firewall rules.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// Key or interface.
    #[error(transparent)]
    Wireguard(#[from] WireguardError),
    /// Settings of the interface.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// A lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The tunnels' files.
    #[error(transparent)]
    State(#[from] StateError),
    /// Forwards.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The agreement does not name this host's key and a port of ours.
    #[error("the other host agreed to a tunnel that is not for this host")]
    NotOurs,
    /// The other end's WireGuard key is that of a tunnel that is not its own.
    #[error(
        "the other host uses the WireGuard key of tunnel {0}, which belongs to another peer: if that host was paired anew, wait until `agent-client status` shows the tunnel no more"
    )]
    KeyOfAnother(Index),
    /// One host makes too many tunnels to others.
    #[error("the host that leads connections here has introduced {0} others already")]
    TooManyIntroduced(usize),
    /// Something else has taken the agreed number or networks since. Negotiate again.
    #[error("tunnel {0} has been taken in the meantime: {1}")]
    Taken(Index, String),
    /// Its keeper.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// No echo request could be sent through the tunnel.
    #[error("cannot send an ICMP echo through the tunnel: {0}")]
    Echo(io::Error),
    /// No packet comes through the underlying network.
    #[error(
        "no WireGuard handshake with {endpoint}: let UDP pass between port {port} of this host and {endpoint}, in the firewalls of both hosts and between them"
    )]
    NoHandshake {
        /// This host's UDP port.
        port: u16,
        /// The other host's address and UDP port.
        endpoint: SocketAddr,
    },
    /// The handshake succeeded, packets inside the tunnel do not come back.
    #[error(
        "the WireGuard handshake with {endpoint} succeeded, but {peer} does not answer an ICMP echo through {interface}: let traffic on {interface} pass in the firewalls of both hosts"
    )]
    NoEcho {
        /// This host's interface.
        interface: String,
        /// The other host's address and UDP port.
        endpoint: SocketAddr,
        /// The other host's address inside the tunnel.
        peer: IpAddr,
    },
}
