//! Connections of the agents inside a tunnel, past firewalls that let in only what was asked for.
//!
//! An administrator opens the agents' port and those of WireGuard, and that has to be enough: most
//! firewalls let established connections pass, so the connection tracker is told of a connection
//! before it begins. It follows the handshake like any other (nf_conntrack_proto_tcp.c: both ends
//! are in sync, the firewall is not).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use conntrack::{Conntrack, Error, Flow, Protocol, Tuple};

/// How long it may take until the connection begins.
const LIMIT: Duration = Duration::from_secs(30);

/// Lets a TCP connection from `peer` to `local` begin. Goes by itself if it does not.
pub fn tcp(peer: SocketAddr, local: SocketAddr) -> Result<(), Error> {
    expect(Tuple::tcp(peer, local))
}

/// Lets ICMP echo requests with this identifier from `peer` to `local` in.
pub fn echo(peer: IpAddr, local: IpAddr, id: u16) -> Result<(), Error> {
    expect(Tuple {
        source: SocketAddr::new(peer, 0),
        destination: SocketAddr::new(local, 0),
        protocol: Protocol::Icmp {
            kind: 8,
            code: 0,
            id,
        },
    })
}

fn expect(tuple: Tuple) -> Result<(), Error> {
    match Conntrack::open()?.insert(&Flow::identity(tuple, LIMIT)) {
        // It is known already.
        Err(Error::Exists(_)) => Ok(()),
        other => other,
    }
}
