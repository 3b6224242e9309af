//! Addresses that stand for a peer whose own address is one of the container's host.
//!
//! Every host has the address of the bridge that the container is on. A process of the source that
//! talks to the container through `localhost` or the container's address, and another container that
//! takes the way over a published port, has that address for the container. At the destination packets
//! to it would never leave, and packets from it would never come in: the local routing table is asked
//! before any other. So there, between the container and the tunnel, the peer has an address that
//! belongs to nobody. The destination's entry of the flow translates it for the container, and
//! [`crate::net::rules::tunnel`] at the tunnel: neither the container nor the other hosts ever see it.
//!
//! One address of each family does for all flows: routing goes by marks, and two flows that differ in
//! nothing but the peer's address cannot both have had the container's host for a peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4's dummy address (RFC 7600, section 4.8).
pub const IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Of the block for what is to be discarded (RFC 6666): where it leaks, no router takes it.
pub const IPV6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 8);

/// What stands for a peer with this address.
pub const fn of(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => IpAddr::V4(IPV4),
        IpAddr::V6(_) => IpAddr::V6(IPV6),
    }
}

/// Whether this is a placeholder.
pub fn is(address: IpAddr) -> bool {
    of(address) == address
}
