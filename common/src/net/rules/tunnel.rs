//! The rules that a tunnel has for as long as it is there.

use std::net::IpAddr;

use nftables::batch::Batch;
use nftables::expr::{CT, CTDir, Expression, FibFlag, MetaKey, NamedExpression};
use nftables::helper::{self, NftablesError};
use nftables::schema::{Chain, NfListObject};
use nftables::stmt::{Limit, Mangle, Match, Operator, Statement};

use super::chains::{
    all_chains, chains, emptied, forward_chains, guests_chain, made, nat_chains, table,
};
use super::expressions::{
    and, came_through, ct, equal, family, field, in_direction, is_local, leaves_through, mark,
    meta, prefix, set_ct_mark, set_mark, text,
};
use super::filter;
use super::nft::{FirewallError, TABLE, apply, empty, fill};
use crate::net::flows::placeholder;
use crate::net::kernel::nfnetlink::Nfnetlink;
use crate::net::mark::{Direction, FWMARK_MASK, Index, Mark};
use crate::net::tunnel::agreement::View;
use crate::net::tunnel::wireguard::MTU;

/// The flag DF, alone in the 16 bits of flags and fragment offset (RFC 791, section 3.1).
const DONT_FRAGMENT: u32 = 0x4000;

/// Sends packets of flows whose connmark names this tunnel through it. Undone by [`remove_tunnel`].
pub fn add_tunnel(index: Index, view: &View) -> Result<(), FirewallError> {
    let mut batch = emptied(index);
    for (chain, rules) in lasting(index, view) {
        fill(&mut batch, &chain, rules);
    }
    apply("add the tunnel's firewall rules", batch)
}

/// Recreates the rules of [`add_tunnel`], and chains that are missing. Temporary rules, and those of forwards,
/// stay.
pub(crate) fn put_back(index: Index, view: &View) -> Result<(), FirewallError> {
    let mut batch = made(index);
    for (chain, rules) in lasting(index, view) {
        empty(&mut batch, &chain);
        fill(&mut batch, &chain, rules);
    }
    apply("put the tunnel's firewall rules back", batch)
}

/// Which chains of the tunnel are missing or have the wrong number of rules, in words; or the whole table, if
/// that is gone. `ways` is how many rules forwards have, and `guests` how many guests have.
///
/// Starts `nft`.
pub(crate) fn missing(
    index: Index,
    view: &View,
    ways: usize,
    guests: usize,
) -> Result<Vec<String>, FirewallError> {
    let what = "look at the firewall's rules";
    let exists = Nfnetlink::open().and_then(|netlink| netlink.has_table(TABLE));
    let exists = exists.map_err(|source| FirewallError::Nft {
        what,
        source: NftablesError::NftExecution {
            program: "netlink".into(),
            inner: source,
        },
    })?;
    if !exists {
        return Ok(vec![format!("the table inet {TABLE}")]);
    }
    let list = ["--json", "list", "table", "inet", TABLE];
    let text = helper::get_current_ruleset_raw(helper::DEFAULT_NFT, list)
        .map_err(|source| FirewallError::new(what, source))?;
    let guests = (guests_chain(index), guests);
    let forwards = forward_chains(index).map(|chain| (chain, ways));
    let nat = nat_chains().map(|chain| (chain, 0));
    let lasting = lasting(index, view).map(|(chain, rules)| (chain, rules.len()));
    let others = forwards.into_iter().chain(nat).chain([guests]);
    Ok(incomplete(&text, lasting.into_iter().chain(others)))
}

/// What is missing of the chains of forwards in what `nft` prints.
#[cfg(feature = "fuzzing")]
pub(crate) fn incomplete_forwards(text: &str, index: Index) -> Vec<String> {
    incomplete(
        text,
        forward_chains(index).into_iter().map(|chain| (chain, 1)),
    )
}

pub(super) fn incomplete(
    text: &str,
    expected: impl Iterator<Item = (Chain<'static>, usize)>,
) -> Vec<String> {
    let all: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let objects = all["nftables"].as_array();
    let of_kind = |kind: &'static str| objects.into_iter().flatten().map(move |o| &o[kind]);
    expected
        .filter(|(chain, rules)| {
            let there = of_kind("chain").any(|found| found["name"] == *chain.name);
            let found = of_kind("rule").filter(|rule| rule["chain"] == *chain.name);
            !there || found.count() != *rules
        })
        .map(|(chain, _)| format!("the chain {}", chain.name))
        .collect()
}

/// The rules that a tunnel has for as long as it is there.
fn lasting(index: Index, view: &View) -> [(Chain<'static>, Vec<Vec<Statement<'static>>>); 6] {
    let [first, last, output, leaving] = leading(index);
    let [_, from_tunnel, _, _, to_tunnel, _] = chains(index);
    [
        first,
        (from_tunnel, filter::from_tunnel(index, view)),
        last,
        output,
        (to_tunnel, filter::to_tunnel(index, view)),
        leaving,
    ]
}

/// Those of them that lead packets of moved flows into the tunnel, and out of it to where they belong. A
/// packet that has passed them can pass them again.
pub(super) fn leading(index: Index) -> [(Chain<'static>, Vec<Vec<Statement<'static>>>); 4] {
    let diverts = || Direction::BOTH.map(|direction| divert(direction, index));
    let placeholders = [IpAddr::V4(placeholder::IPV4), IpAddr::V6(placeholder::IPV6)];
    let of_first = [
        vec![no_loopback(index), arrive(index)],
        placeholders.map(|peer| hide(peer, index)).into(),
    ];
    let of_last = [
        vec![answer_through(index), arrived(index)],
        diverts().into(),
        vec![allow_fragments(index)],
    ];
    let of_leaving = placeholders
        .into_iter()
        .flat_map(|peer| Direction::BOTH.map(|direction| show(peer, direction, index)));
    let [first, _, last, output, _, leaving] = chains(index);
    [
        (first, of_first.concat()),
        (last, of_last.concat()),
        (output, diverts().into()),
        (leaving, of_leaving.collect()),
    ]
}

/// Removes the tunnel's chains, whether or not they exist.
pub fn remove_tunnel(index: Index) -> Result<(), FirewallError> {
    let mut batch = emptied(index);
    for chain in all_chains(index) {
        batch.delete(NfListObject::Chain(chain));
    }
    apply("remove the tunnel's firewall rules", batch)
}

/// Removes the whole table, whether or not it exists: for when no tunnel is left.
pub fn remove_table() -> Result<(), FirewallError> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table()));
    batch.delete(NfListObject::Table(table()));
    apply("remove the firewall table", batch)
}

/// Gives packets that come through the tunnel its mark.
fn arrive(index: Index) -> Vec<Statement<'static>> {
    vec![came_through(index), set_mark(index.fwmark())]
}

/// Keeps the other end away from this host's loopback addresses.
fn no_loopback(index: Index) -> Vec<Statement<'static>> {
    let loopback = prefix("127.0.0.0", 8);
    vec![
        came_through(index),
        equal(field("ip", "daddr"), loopback),
        Statement::Drop(None),
    ]
}

/// Gives a peer that arrives with an address of this host its placeholder.
fn hide(placeholder: IpAddr, index: Index) -> Vec<Statement<'static>> {
    let (nfproto, protocol) = family(placeholder);
    vec![
        came_through(index),
        equal(meta(MetaKey::Nfproto), Expression::String(nfproto.into())),
        Statement::Match(is_local(FibFlag::Saddr)),
        Statement::Mangle(Mangle {
            key: field(protocol, "saddr"),
            value: text(&placeholder),
        }),
    ]
}

/// Gives the packets of one direction that leave for a placeholder the address of the peer, which the flow's
/// entry has as the container knows it.
fn show(placeholder: IpAddr, direction: Direction, index: Index) -> Vec<Statement<'static>> {
    let (_, protocol) = family(placeholder);
    let dir = match direction {
        Direction::Original => CTDir::Original,
        Direction::Reply => CTDir::Reply,
    };
    let destination = || field(protocol, "daddr");
    vec![
        leaves_through(index),
        equal(destination(), text(&placeholder)),
        in_direction(direction),
        Statement::Mangle(Mangle {
            key: destination(),
            value: Expression::Named(NamedExpression::CT(CT {
                key: format!("{protocol} daddr").into(),
                family: None,
                dir: Some(dir),
            })),
        }),
    ]
}

/// Removes the mark again, unless it names another tunnel by now.
fn arrived(index: Index) -> Vec<Statement<'static>> {
    let marked = equal(and(mark(), FWMARK_MASK), Expression::Number(index.fwmark()));
    vec![came_through(index), marked, set_mark(0)]
}

/// Has connections that begin in the tunnel, to an address that is not this host's, answered through it.
fn answer_through(index: Index) -> Vec<Statement<'static>> {
    vec![
        came_through(index),
        equal(ct("state"), Expression::String("new".into())),
        Statement::Match(Match {
            op: Operator::NEQ,
            ..is_local(FibFlag::Daddr)
        }),
        set_ct_mark(Direction::Reply, index),
    ]
}

fn divert(direction: Direction, index: Index) -> Vec<Statement<'static>> {
    vec![
        in_direction(direction),
        equal(
            and(ct("mark"), direction.mask()),
            Expression::Number(Mark(0).with(direction, Some(index)).0),
        ),
        set_mark(index.fwmark()),
    ]
}

fn allow_fragments(index: Index) -> Vec<Statement<'static>> {
    let fragments = || field("ip", "frag-off");
    vec![
        equal(and(mark(), FWMARK_MASK), Expression::Number(index.fwmark())),
        equal(meta(MetaKey::L4proto), Expression::String("tcp".into())),
        equal(fragments(), Expression::Number(DONT_FRAGMENT)),
        Statement::Match(Match {
            left: meta(MetaKey::Length),
            right: Expression::Number(MTU + 1),
            op: Operator::GEQ,
        }),
        Statement::Limit(Limit {
            // Each of those that are not let pass costs a deaf sender a retransmission time-out.
            rate: 4,
            rate_unit: None,
            per: Some("minute".into()),
            burst: Some(2),
            burst_unit: None,
            inv: Some(true),
        }),
        Statement::Mangle(Mangle {
            key: fragments(),
            value: Expression::Number(0),
        }),
    ]
}
