//! Rules that keep out of a tunnel, at either end of it, what does not belong there.

use std::net::IpAddr;

use ipnet::IpNet;
use nftables::batch::Batch;
use nftables::expr::{Expression, Range};
use nftables::stmt::{Accept, JumpTarget, Match, Operator, Statement};

use super::chains::guests_chain;
use super::expressions::{
    and, came_through, ct, equal, family, field, in_direction, leaves_through, mark, text,
};
use super::nft::{FirewallError, apply, empty, fill};
use crate::net::mark::{CONNMARK_MASK, Direction, FWMARK_MASK, Index, Mark};
use crate::net::ports;
use crate::net::tunnel::agreement::View;

type Rule = Vec<Statement<'static>>;

/// Lets the other end send packets to these addresses, and packets of connections that exist already from
/// them: those of containers that came through the tunnel. Instead of any earlier ones; undone by an empty
/// list, and by [`super::tunnel::remove_tunnel`].
pub(crate) fn guests(index: Index, addresses: &[IpAddr]) -> Result<(), FirewallError> {
    let mut batch = Batch::new();
    let chain = guests_chain(index);
    empty(&mut batch, &chain);
    fill(
        &mut batch,
        &chain,
        addresses.iter().flat_map(guest).collect(),
    );
    apply("let containers' packets through the tunnel", batch)
}

/// How many rules [`guests`] makes of an address.
pub(crate) const RULES_PER_GUEST: usize = 2;

fn guest(address: &IpAddr) -> [Rule; RULES_PER_GUEST] {
    let (_, protocol) = family(*address);
    let end = |name| equal(field(protocol, name), text(address));
    [
        vec![end("daddr"), accept()],
        // Some are on their way here when their container comes, and its flows name no tunnel any more.
        vec![
            end("saddr"),
            in_state(&["established", "related"]),
            accept(),
        ],
    ]
}

/// What may come out of the tunnel: packets of moved flows and to guests, and the other host's own.
pub(super) fn from_tunnel(index: Index, view: &View) -> Vec<Rule> {
    let mut rules = vec![vec![not(came_through(index)), accept()]];
    // The other direction's packets take this tunnel.
    rules.extend(
        [
            (Direction::Original, Direction::Reply),
            (Direction::Reply, Direction::Original),
        ]
        .map(|(direction, other)| {
            let names = Expression::Number(Mark(0).with(other, Some(index)).0);
            let named = equal(and(ct("mark"), other.mask()), names);
            vec![in_direction(direction), named, accept()]
        }),
    );
    let moved = Statement::Match(Match {
        left: and(ct("mark"), CONNMARK_MASK),
        right: Expression::Number(0),
        op: Operator::NEQ,
    });
    // They take another tunnel by now, and some packets are still on their way through this one.
    rules.push(vec![in_state(&["established", "related"]), moved, accept()]);
    let target = guests_chain(index).name;
    rules.push(vec![Statement::Jump(JumpTarget { target })]);
    rules.extend(ends(view).flat_map(|(local, peer)| between(peer, local)));
    rules.push(vec![Statement::Drop(None)]);
    rules
}

/// What may enter the tunnel: packets that [`super::tunnel`] has marked for it, and this host's own.
pub(super) fn to_tunnel(index: Index, view: &View) -> Vec<Rule> {
    let marked = equal(and(mark(), FWMARK_MASK), Expression::Number(index.fwmark()));
    let mut rules = vec![
        vec![not(leaves_through(index)), accept()],
        vec![marked, accept()],
    ];
    rules.extend(ends(view).flat_map(|(local, peer)| between(local, peer)));
    rules.push(vec![Statement::Drop(None)]);
    rules
}

/// This end's addresses, each with the other end's.
fn ends(view: &View) -> impl Iterator<Item = (IpAddr, IpAddr)> {
    let local = view.addresses.iter().map(IpNet::addr);
    local.zip(view.peer_addresses.iter().copied())
}

/// What the agents need: echoes, keepers and bulk streams.
fn between(source: IpAddr, destination: IpAddr) -> Vec<Rule> {
    let (_, protocol) = family(source);
    let between = |rule: Rule| {
        let mut all = vec![
            equal(field(protocol, "saddr"), text(&source)),
            equal(field(protocol, "daddr"), text(&destination)),
        ];
        all.extend(rule);
        all.push(accept());
        all
    };
    let icmp = match source {
        IpAddr::V4(_) => "icmp",
        IpAddr::V6(_) => "icmpv6",
    };
    let request = Expression::String("echo-request".into());
    let port = |ports| vec![equal(field("tcp", "dport"), ports)];
    let [first, last] = ports::BULK.map(|port| Expression::Number(port.into()));
    [
        // The destination has begun these itself.
        vec![in_direction(Direction::Reply)],
        vec![in_state(&["related"])],
        vec![equal(field(icmp, "type"), request)],
        port(Expression::Number(ports::KEEPER.into())),
        port(Expression::Range(Box::new(Range {
            range: [first, last],
        }))),
    ]
    .map(between)
    .into()
}

fn accept() -> Statement<'static> {
    Statement::Accept(Some(Accept {}))
}

fn in_state(states: &[&'static str]) -> Statement<'static> {
    let states = states
        .iter()
        .map(|state| Expression::String((*state).into()));
    Statement::Match(Match {
        left: ct("state"),
        right: Expression::List(states.collect()),
        op: Operator::IN,
    })
}

fn not(statement: Statement<'static>) -> Statement<'static> {
    match statement {
        Statement::Match(test) => Statement::Match(Match {
            op: Operator::NEQ,
            ..test
        }),
        other => other,
    }
}
