//! Rules that send new connections after a container.

use std::net::IpAddr;

use nftables::batch::Batch;
use nftables::expr::{Expression, FibFlag, MetaKey};
use nftables::stmt::{Match, NAT, NATFamily, Operator, Statement};

use super::chains::forward_chains;
use super::expressions::{equal, family, field, is_local, meta, prefix, set_ct_mark, set_mark};
use super::nft::{FirewallError, apply, empty, fill};
use crate::container::facts::PublishedPort;
use crate::net::flows::port_forward::{Forward, specific};
use crate::net::mark::{Direction, Index};

/// Makes these the forwards through the tunnel, instead of any earlier ones. An empty list removes them.
/// Undone by [`super::tunnel::remove_tunnel`].
pub fn forward(index: Index, forwards: &[&Forward]) -> Result<(), FirewallError> {
    let mut batch = Batch::new();
    let rules: Vec<_> = forwards
        .iter()
        .flat_map(|forward| forward.ways())
        .map(|(port, to)| forward_port(port, to, index))
        .collect();
    for chain in forward_chains(index) {
        empty(&mut batch, &chain);
        fill(&mut batch, &chain, rules.clone());
    }
    apply("forward new connections", batch)
}

/// Sends new connections to a port of this host through the tunnel to an address.
fn forward_port(port: &PublishedPort, to: IpAddr, index: Index) -> Vec<Statement<'static>> {
    let (nfproto, protocol) = family(to);
    let (family, loopback) = match to {
        IpAddr::V4(_) => (NATFamily::IP, prefix("127.0.0.0", 8)),
        IpAddr::V6(_) => (NATFamily::IP6, prefix("::1", 128)),
    };
    let destination = || field(protocol, "daddr");
    let mut rule = vec![
        equal(meta(MetaKey::Nfproto), Expression::String(nfproto.into())),
        Statement::Match(is_local(FibFlag::Daddr)),
        Statement::Match(Match {
            left: destination(),
            right: loopback,
            op: Operator::NEQ,
        }),
    ];
    if let Some(address) = specific(port) {
        rule.push(equal(
            destination(),
            Expression::String(address.to_string().into()),
        ));
    }
    rule.extend([
        equal(
            meta(MetaKey::L4proto),
            Expression::String(port.protocol.clone().into()),
        ),
        equal(
            field("th", "dport"),
            Expression::Number(port.host_port.into()),
        ),
        set_ct_mark(Direction::Original, index),
        set_mark(index.fwmark()),
        Statement::DNAT(Some(NAT {
            addr: Some(Expression::String(to.to_string().into())),
            family: Some(family),
            port: Some(Expression::Number(port.container_port.into())),
            flags: None,
        })),
    ]);
    rule
}
