//! Placeholders for peers whose own address is also an address of the container's host.
//!
//! Every host has the address of the bridge that the container is on. That is how the container knows a
//! process of the source that talks to it through `localhost` or its own address, or another container that
//! came by a published port. At the destination packets to that address would never leave, and packets from
//! it would never come in, because the local routing table comes before any other. So there, between the
//! container and the tunnel, the peer has an address that belongs to nobody. The flow's entry at the
//! destination translates it for the container, and [`crate::net::rules::tunnel`] translates it at the tunnel:
//! neither the container nor other hosts ever see it.
//!
//! One address of each family is enough for all flows: routing goes by marks, and two flows that differ only
//! in the peer's address cannot both have had the container's host for a peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4's dummy address (RFC 7600, section 4.8).
pub const IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// From the discard-only block (RFC 6666): if it leaked, no router would forward it.
pub const IPV6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 8);

/// The placeholder for a peer with this address.
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
