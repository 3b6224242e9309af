//! Gets the agents' connections inside a tunnel past firewalls that let in only replies.
//!
//! Opening the agents' port and those of WireGuard has to be enough for an administrator. Most
//! firewalls let established connections pass, so the connection tracker is told of a connection
//! before it begins. It accepts the handshake that follows (nf_conntrack_proto_tcp.c: both ends
//! are in sync, the firewall is not).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use conntrack::{Conntrack, Error, Filter, Flow, Protocol, Tuple};
use ipnet::IpNet;

/// How long it may take until the connection begins.
const LIMIT: Duration = Duration::from_secs(30);

/// Lets a TCP connection from `peer` to `local` begin. The entry expires if none does.
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

/// Forgets all connections between the two ends of a tunnel, whose networks these were.
pub fn forget(networks: &[IpNet]) -> Result<(), Error> {
    let mut table = Conntrack::open()?;
    for flow in table.list(Filter::default())? {
        let ends = [flow.original.source.ip(), flow.original.destination.ip()];
        if networks
            .iter()
            .any(|net| ends.iter().all(|end| net.contains(end)))
        {
            match table.delete(&flow) {
                Err(Error::NotFound(_)) => {}
                deleted => deleted?,
            }
        }
    }
    Ok(())
}

fn expect(tuple: Tuple) -> Result<(), Error> {
    match Conntrack::open()?.insert(&Flow::identity(tuple, LIMIT)) {
        // It is known already.
        Err(Error::Exists(_)) => Ok(()),
        other => other,
    }
}
