//! Rules that keep this host from answering packets of flows whose entries are replaced.

use std::net::IpAddr;

use conntrack::{Protocol, Tuple};
use nftables::batch::Batch;
use nftables::expr::Expression;
use nftables::stmt::Statement;

use super::chains::guard_chain;
use super::expressions::{ct, equal, family, field, text};
use super::nft::{FirewallError, apply, empty, fill};
use crate::net::mark::Index;

/// Drops packets with these tuples that are for this host and belong to no flow. Undone by an empty list,
/// and by [`super::tunnel::remove_tunnel`].
pub fn guard(index: Index, tuples: &[Tuple]) -> Result<(), FirewallError> {
    let mut batch = Batch::new();
    let chain = guard_chain(index);
    empty(&mut batch, &chain);
    let rules = tuples.iter().filter_map(drop_unknown).collect();
    fill(&mut batch, &chain, rules);
    apply("guard connections of this host", batch)
}

fn drop_unknown(tuple: &Tuple) -> Option<Vec<Statement<'static>>> {
    let protocol = match tuple.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        _ => return None,
    };
    let (source, destination) = (tuple.source, tuple.destination);
    let (_, family) = family(source.ip());
    let address = |name, ip: IpAddr| equal(field(family, name), text(&ip));
    let port = |name, port: u16| equal(field(protocol, name), Expression::Number(port.into()));
    Some(vec![
        address("saddr", source.ip()),
        address("daddr", destination.ip()),
        port("sport", source.port()),
        port("dport", destination.port()),
        equal(ct("state"), Expression::String("new".into())),
        Statement::Drop(None),
    ])
}
