//! The nftables rules that turn a flow's connmark into a packet's fwmark.
//!
//! ```text
//! table inet live_migration {
//!     chain arriving_1 {
//!         type filter hook prerouting priority -310; policy accept;
//!         iifname lmwg1 ip daddr 127.0.0.0/8 drop
//!         iifname lmwg1 meta mark set meta mark & 0xffc0ffff | 0x00010000
//!         iifname lmwg1 meta nfproto ipv4 fib saddr type local ip saddr set 192.0.0.8
//!         … the same for IPv6 …
//!     }
//!     chain forward_1 {
//!         type nat hook prerouting priority dstnat - 1; policy accept;
//!         meta nfproto ipv4 fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto tcp
//!             th dport 8080 ct mark set ct mark & 0xffc0ffff | 0x00010000
//!             meta mark set meta mark & 0xffc0ffff | 0x00010000 dnat ip to 10.88.0.5:80
//!     }
//!     chain forward_output_1 { type nat hook output priority dstnat - 1; … the same … }
//!     chain prerouting_1 {
//!         type filter hook prerouting priority 200; policy accept;
//!         iifname lmwg1 ct state new fib daddr type != local
//!             ct mark set ct mark & 0xf03fffff | 0x00400000
//!         iifname lmwg1 meta mark & 0x003f0000 == 0x00010000 meta mark set meta mark & 0xffc0ffff
//!         ct direction original ct mark & 0x003f0000 == 0x00010000
//!             meta mark set meta mark & 0xffc0ffff | 0x00010000
//!         ct direction reply ct mark & 0x0fc00000 == 0x00400000
//!             meta mark set meta mark & 0xffc0ffff | 0x00010000
//!         meta mark & 0x003f0000 == 0x00010000 meta l4proto tcp ip frag-off 0x4000
//!             meta length >= 1421 limit rate over 4/minute burst 2 packets ip frag-off set 0
//!     }
//!     chain leaving_1 {
//!         type filter hook postrouting priority 300; policy accept;
//!         oifname lmwg1 ip daddr 192.0.0.8 ct direction original
//!             ip daddr set ct original ip daddr
//!         oifname lmwg1 ip daddr 192.0.0.8 ct direction reply ip daddr set ct reply ip daddr
//!         … the same for IPv6 …
//!     }
//!     chain output_1 { type route hook output priority mangle; … the two rules of directions … }
//!     chain nat_prerouting { type nat hook prerouting priority dstnat; }
//!     chain nat_postrouting { type nat hook postrouting priority srcnat; }
//! }
//! ```
//!
//! A peer whose address is this host's own is another between the two ends of the tunnel
//! ([`crate::net::flows::stand_in`]): it gets it when conntrack has not seen the packet yet, and has its own again
//! in packets that leave, when their way is decided on. Their flow's entry knows what that is.
//!
//! The rule about fragments is for connections that are older than the tunnel and have agreed on segments
//! that it has no room for. A sender whose packets may not be fragmented is told so by ICMP, and sends
//! smaller ones. Behind a filter that drops ICMP it would send the same segment for ever (RFC 2923,
//! section 2.1): so only a few packets get that answer, and the rest is fragmented (IPv4 only: no router
//! fragments IPv6). TCP only, because what else may not be fragmented need not have an identification of
//! its own (RFC 6864), and fragments of two such packets cannot be told apart.
//!
//! `prerouting` comes after conntrack has found the flow, last before the routing decision. A packet
//! that came through a tunnel needs no exception: in its direction the mark says "ordinary".
//!
//! Until then such a packet has the mark of its tunnel. Firewalls that check where packets come from
//! (firewalld does for IPv6: `fib saddr . mark . iif`) find the way back through that tunnel.
//!
//! A chain `guard_1` of the hook input has rules only while entries are made anew that the kernel would not
//! have turned ([`crate::net::flows::decide::keeps_to_its_interface`]): it drops what the container sends of those flows
//! in between, which this host would answer with a reset.
//!
//! Two chains `waiting_1` and `queued_1` have rules only while flows are led past a host: what leaves through
//! the tunnel waits for what is under way ([`crate::net::packets::order`]).
//!
//! The chains `forward_1` are empty unless new connections are sent after a container
//! ([`crate::net::flows::published`]). At the other end those are new as well, and are answered through the tunnel:
//! the first rule of `prerouting_1`. What this host sends to itself keeps its address, which the other
//! end cannot answer if it is a loopback address.
//!
//! Each tunnel has base chains of its own because chains, unlike rules, are removed by name: there
//! are no rule handles to remember, and tunnels do not touch each other's.
//!
//! The two chains of type `nat` stay empty: while one exists the kernel goes on translating the
//! flows that have a translation already, even if whoever set it up removes the last chain of its
//! own (nf_nat_register_fn in the kernel's net/netfilter/nf_nat_core.c).
//!
//! Every change is one transaction of `nft`. Concurrent callers must hold the tunnels' lock.

use std::collections::HashSet;
use std::net::IpAddr;

use conntrack::{Protocol, Tuple};
use nftables::batch::Batch;
use nftables::expr::{
    BinaryOperation, CT, CTDir, Expression, Fib, FibFlag, FibResult, Meta, MetaKey,
    NamedExpression, Payload, PayloadField, Prefix,
};
use nftables::helper::{self, NftablesError};
use nftables::schema::{Chain, FlushObject, NfCmd, NfListObject, Rule, Table};
use nftables::stmt::{
    JumpTarget, Limit, Mangle, Match, NAT, NATFamily, Operator, Queue, QueueFlag, Statement,
};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use crate::container::facts::PublishedPort;
use crate::net::flows::published::{self, Forward};
use crate::net::flows::stand_in;
use crate::net::kernel::nfnetlink::Nfnetlink;
use crate::net::mark::{CONNMARK_MASK, Direction, FWMARK_MASK, Index, Mark};
use crate::net::tunnel::wireguard::MTU;

/// Our table, in the family `inet`.
pub const TABLE: &str = "live_migration";
/// Before the priority `raw` (nft(8)), where the first checks are.
const PRIORITY_FIRST: i32 = -310;
/// After the priority `security` (nft(8)), where the last checks are.
const PRIORITY_LAST: i32 = 200;
/// After all translation of packets that leave: at priority `srcnat`, and after it for some (nft(8)).
const PRIORITY_LEAVING: i32 = 300;
/// Priority `mangle` of the hooks output and input (nft(8)).
const PRIORITY_MANGLE: i32 = -150;
/// Before the priority `dstnat`, where others would say that nobody listens.
const PRIORITY_FORWARD: i32 = PRIORITY_DSTNAT - 1;
/// Priority `dstnat` (nft(8)).
const PRIORITY_DSTNAT: i32 = -100;
/// Priority `srcnat` (nft(8)).
const PRIORITY_SRCNAT: i32 = 100;

/// The flag DF, alone in the 16 bits of flags and fragment offset (RFC 791, section 3.1).
const DONT_FRAGMENT: u32 = 0x4000;

/// `nft` failed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// `nft` ran and refused.
    #[error("cannot {what}: nft says: {stderr}")]
    Refused {
        /// The change in words.
        what: &'static str,
        /// What it printed.
        stderr: String,
    },
    /// `nft` did not run, or printed what cannot be understood.
    #[error("cannot {what}: {source}")]
    Nft {
        /// The change in words.
        what: &'static str,
        /// Why.
        source: NftablesError,
    },
}

impl FirewallError {
    fn new(what: &'static str, source: NftablesError) -> Self {
        match source {
            NftablesError::NftFailed { stderr, .. } => FirewallError::Refused {
                what,
                stderr: stderr.trim().into(),
            },
            source => FirewallError::Nft { what, source },
        }
    }
}

/// Diverts the flows whose connmark names this tunnel. Undone by [`remove_tunnel`].
pub fn add_tunnel(index: Index) -> Result<(), FirewallError> {
    let mut batch = emptied(index);
    for (chain, rules) in lasting(index) {
        fill(&mut batch, &chain, rules);
    }
    apply("add the tunnel's firewall rules", batch)
}

/// Makes the rules that [`add_tunnel`] makes anew, and those chains that are missing. Rules that are there
/// for a while, and forwards, stay.
pub(crate) fn put_back(index: Index) -> Result<(), FirewallError> {
    let mut batch = made(index);
    for (chain, rules) in lasting(index) {
        empty(&mut batch, &chain);
        fill(&mut batch, &chain, rules);
    }
    apply("put the tunnel's firewall rules back", batch)
}

/// Which chains of the tunnel are not there, or do not have as many rules as they must, in words; the
/// whole table, if that is gone. `ways` is how many rules forwards have.
///
/// Starts `nft`.
pub(crate) fn missing(index: Index, ways: usize) -> Result<Vec<String>, FirewallError> {
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
    Ok(incomplete(&text, index, ways))
}

fn incomplete(text: &str, index: Index, ways: usize) -> Vec<String> {
    let all: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let objects = all["nftables"].as_array();
    let of_kind = |kind: &'static str| objects.into_iter().flatten().map(move |o| &o[kind]);
    let expected = lasting(index).map(|(chain, rules)| (chain, rules.len()));
    let forwards = forward_chains(index).map(|chain| (chain, ways));
    let nat = nat_chains().map(|chain| (chain, 0));
    let all = expected.into_iter().chain(forwards).chain(nat);
    all.filter(|(chain, rules)| {
        let there = of_kind("chain").any(|found| found["name"] == *chain.name);
        let found = of_kind("rule").filter(|rule| rule["chain"] == *chain.name);
        !there || found.count() != *rules
    })
    .map(|(chain, _)| format!("the chain {}", chain.name))
    .collect()
}

/// The rules that a tunnel has for as long as it is there.
fn lasting(index: Index) -> [(Chain<'static>, Vec<Vec<Statement<'static>>>); 4] {
    let diverts = || Direction::BOTH.map(|direction| divert(direction, index));
    let stand_ins = [IpAddr::V4(stand_in::IPV4), IpAddr::V6(stand_in::IPV6)];
    let rules = [
        [
            vec![no_loopback(index), arrive(index)],
            stand_ins.map(|peer| hide(peer, index)).into(),
        ]
        .concat(),
        [
            vec![answer_through(index), arrived(index)],
            diverts().into(),
            vec![allow_fragments(index)],
        ]
        .concat(),
        diverts().into(),
        stand_ins
            .into_iter()
            .flat_map(|peer| Direction::BOTH.map(|direction| show(peer, direction, index)))
            .collect(),
    ];
    let [first, last, output, leaving] = chains(index);
    let [of_first, of_last, of_output, of_leaving] = rules;
    [
        (first, of_first),
        (last, of_last),
        (output, of_output),
        (leaving, of_leaving),
    ]
}

/// Makes these the forwards through the tunnel, in place of what there was. Those of none are none.
/// Undone by [`remove_tunnel`].
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

/// Drops packets with these tuples that are for this host and belong to no flow. Undone by an empty list,
/// and by [`remove_tunnel`].
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

fn fill(batch: &mut Batch<'static>, chain: &Chain<'static>, rules: Vec<Vec<Statement<'static>>>) {
    for rule in rules {
        batch.add(NfListObject::Rule(Rule {
            family: chain.family,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            expr: rule.into(),
            ..Rule::default()
        }));
    }
}

/// What becomes of packets for a queue that nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfNobodyReads {
    Drop,
    Pass,
}

/// Hands every packet that comes so far in a chain of the family `inet` to queue `number`.
pub(crate) fn queue(
    chain: &Chain<'static>,
    number: u16,
    orphans: IfNobodyReads,
) -> Result<(), FirewallError> {
    let bypass = orphans == IfNobodyReads::Pass;
    // Every kernel with netfilter queues has the target; nft's own statement is newer.
    let by_target = Nfnetlink::open().and_then(|netlink| {
        netlink.append_nfqueue_target(&chain.table, &chain.name, number, bypass)
    });
    if by_target.is_ok() {
        return Ok(());
    }
    let mut batch = Batch::new();
    let queue = Statement::Queue(Queue {
        num: Expression::Number(number.into()),
        flags: bypass.then(|| HashSet::from([QueueFlag::Bypass])),
    });
    fill(&mut batch, chain, vec![vec![queue]]);
    apply("queue packets", batch)
}

/// Has packets of moved flows that leave through the tunnel wait in queue `number`; if nobody has it they
/// pass. Undone by [`let_pass`], and by [`remove_tunnel`].
pub(crate) fn hold(index: Index, number: u16) -> Result<(), FirewallError> {
    let [waiting, queued] = waiting_chains(index);
    queue(&queued, number, IfNobodyReads::Pass)?;
    let mut batch = Batch::new();
    let moved = Statement::Match(Match {
        left: and(ct("mark"), CONNMARK_MASK),
        right: Expression::Number(0),
        op: Operator::NEQ,
    });
    let jump = Statement::Jump(JumpTarget {
        target: queued.name,
    });
    let rule = vec![leaves_through(index), moved, jump];
    fill(&mut batch, &waiting, vec![rule]);
    apply("have packets wait", batch)
}

/// Has packets wait no more; those that do are not touched.
pub(crate) fn let_pass(index: Index) -> Result<(), FirewallError> {
    let mut batch = Batch::new();
    for chain in waiting_chains(index) {
        empty(&mut batch, &chain);
    }
    apply("have packets wait no more", batch)
}

/// Diverts nothing to this tunnel any more, whether or not it did.
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

/// The whole ruleset in nft's JSON, whatever is in it.
pub fn ruleset() -> Result<String, FirewallError> {
    helper::get_current_ruleset_raw(helper::DEFAULT_NFT, helper::DEFAULT_ARGS)
        .map_err(|source| FirewallError::new("read the firewall's rules", source))
}

/// Hands one transaction to `nft`, in the namespace of the calling thread.
pub(crate) fn apply(what: &'static str, batch: Batch) -> Result<(), FirewallError> {
    helper::apply_ruleset(&batch.to_nftables()).map_err(|source| FirewallError::new(what, source))
}

/// Table and chains, made if missing and emptied if not: what follows in the transaction finds
/// the same state every time. (`destroy`, which ignores what is missing, needs nft 1.0.7 and
/// Linux 6.3.)
fn emptied(index: Index) -> Batch<'static> {
    let mut batch = made(index);
    for chain in all_chains(index) {
        empty(&mut batch, &chain);
    }
    batch
}

/// Table and chains, made if missing.
fn made(index: Index) -> Batch<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table()));
    for chain in nat_chains().into_iter().chain(all_chains(index)) {
        batch.add(NfListObject::Chain(chain));
    }
    batch
}

fn nat_chains() -> [Chain<'static>; 2] {
    [
        ("nat_prerouting", NfHook::Prerouting, PRIORITY_DSTNAT),
        ("nat_postrouting", NfHook::Postrouting, PRIORITY_SRCNAT),
    ]
    .map(|(name, hook, priority)| base_chain(name.into(), hook, NfChainType::NAT, priority))
}

/// Makes the chain if it is missing, and empties it if not.
fn empty(batch: &mut Batch<'static>, chain: &Chain<'static>) {
    batch.add(NfListObject::Chain(chain.clone()));
    batch.add_cmd(NfCmd::Flush(FlushObject::Chain(chain.clone())));
}

fn table() -> Table<'static> {
    Table {
        family: NfFamily::INet,
        name: TABLE.into(),
        handle: None,
    }
}

fn all_chains(index: Index) -> impl Iterator<Item = Chain<'static>> {
    let others = forward_chains(index)
        .into_iter()
        .chain([guard_chain(index)])
        .chain(waiting_chains(index));
    chains(index).into_iter().chain(others)
}

/// For what arrives, first and last, for what this host sends itself (`route`: the new mark is looked
/// up again), and for what leaves.
fn chains(index: Index) -> [Chain<'static>; 4] {
    use NfChainType::{Filter, Route};
    use NfHook::{Output, Postrouting, Prerouting};
    [
        ("arriving", Prerouting, Filter, PRIORITY_FIRST),
        ("prerouting", Prerouting, Filter, PRIORITY_LAST),
        ("output", Output, Route, PRIORITY_MANGLE),
        ("leaving", Postrouting, Filter, PRIORITY_LEAVING),
    ]
    .map(|(name, hook, kind, priority)| {
        base_chain(format!("{name}_{index}").into(), hook, kind, priority)
    })
}

/// For new connections that arrive, and for those of this host's own processes.
fn forward_chains(index: Index) -> [Chain<'static>; 2] {
    [
        ("forward", NfHook::Prerouting),
        ("forward_output", NfHook::Output),
    ]
    .map(|(name, hook)| {
        let name = format!("{name}_{index}").into();
        base_chain(name, hook, NfChainType::NAT, PRIORITY_FORWARD)
    })
}

/// For what leaves, in the end; and the rule about a queue, which has no conditions.
fn waiting_chains(index: Index) -> [Chain<'static>; 2] {
    let (hook, kind) = (NfHook::Postrouting, NfChainType::Filter);
    let queued = Chain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: format!("queued_{index}").into(),
        ..Chain::default()
    };
    let name = format!("waiting_{index}").into();
    [base_chain(name, hook, kind, PRIORITY_LEAVING + 1), queued]
}

/// For what is for this host itself.
fn guard_chain(index: Index) -> Chain<'static> {
    let name = format!("guard_{index}").into();
    base_chain(name, NfHook::Input, NfChainType::Filter, PRIORITY_MANGLE)
}

fn base_chain(
    name: std::borrow::Cow<'static, str>,
    hook: NfHook,
    kind: NfChainType,
    priority: i32,
) -> Chain<'static> {
    Chain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name,
        _type: Some(kind),
        hook: Some(hook),
        prio: Some(priority),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    }
}

/// Gives what comes through the tunnel its mark.
fn arrive(index: Index) -> Vec<Statement<'static>> {
    vec![came_through(index), set_mark(index.fwmark())]
}

/// Keeps the other end from this host's loopback addresses.
fn no_loopback(index: Index) -> Vec<Statement<'static>> {
    let loopback = prefix("127.0.0.0", 8);
    vec![
        came_through(index),
        equal(field("ip", "daddr"), loopback),
        Statement::Drop(None),
    ]
}

/// Gives a peer that arrives with an address of this host its stand-in.
fn hide(stand_in: IpAddr, index: Index) -> Vec<Statement<'static>> {
    let (nfproto, protocol) = family(stand_in);
    vec![
        came_through(index),
        equal(meta(MetaKey::Nfproto), Expression::String(nfproto.into())),
        Statement::Match(is_local(FibFlag::Saddr)),
        Statement::Mangle(Mangle {
            key: field(protocol, "saddr"),
            value: text(&stand_in),
        }),
    ]
}

/// Gives the packets of one direction that leave for a stand-in the address of the peer, which the flow's
/// entry has as the container knows it.
fn show(stand_in: IpAddr, direction: Direction, index: Index) -> Vec<Statement<'static>> {
    let (_, protocol) = family(stand_in);
    let dir = match direction {
        Direction::Original => CTDir::Original,
        Direction::Reply => CTDir::Reply,
    };
    let destination = || field(protocol, "daddr");
    vec![
        leaves_through(index),
        equal(destination(), text(&stand_in)),
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

/// A family's names in `meta nfproto` and as a protocol.
fn family(address: IpAddr) -> (&'static str, &'static str) {
    match address {
        IpAddr::V4(_) => ("ipv4", "ip"),
        IpAddr::V6(_) => ("ipv6", "ip6"),
    }
}

/// Takes the mark away again, unless it is another tunnel's by now.
fn arrived(index: Index) -> Vec<Statement<'static>> {
    let marked = equal(and(mark(), FWMARK_MASK), Expression::Number(index.fwmark()));
    vec![came_through(index), marked, set_mark(0)]
}

/// Has connections answered through the tunnel that begin in it and pass this host.
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
    if let Some(address) = published::specific(port) {
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

/// That a packet's source or destination is this host.
fn is_local(end: FibFlag) -> Match<'static> {
    Match {
        left: Expression::Named(NamedExpression::Fib(Fib {
            result: FibResult::Type,
            flags: [end].into(),
        })),
        right: Expression::String("local".into()),
        op: Operator::EQ,
    }
}

/// Has one direction of the flow take the tunnel.
fn set_ct_mark(direction: Direction, index: Index) -> Statement<'static> {
    let bits = Mark(0).with(direction, Some(index)).0;
    replace(ct("mark"), direction.mask(), bits)
}

fn text(address: &IpAddr) -> Expression<'static> {
    Expression::String(address.to_string().into())
}

fn prefix(address: &'static str, len: u32) -> Expression<'static> {
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(Expression::String(address.into())),
        len,
    }))
}

fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(
        PayloadField {
            protocol: protocol.into(),
            field: field.into(),
        },
    )))
}

fn leaves_through(index: Index) -> Statement<'static> {
    let interface = Expression::String(index.interface().into());
    equal(meta(MetaKey::Oifname), interface)
}

fn came_through(index: Index) -> Statement<'static> {
    equal(
        meta(MetaKey::Iifname),
        Expression::String(index.interface().into()),
    )
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn mark() -> Expression<'static> {
    meta(MetaKey::Mark)
}

/// Replaces our bits of the mark.
fn set_mark(bits: u32) -> Statement<'static> {
    replace(mark(), FWMARK_MASK, bits)
}

/// Replaces the bits of a mark that are in `mask`.
fn replace(mark: Expression<'static>, mask: u32, bits: u32) -> Statement<'static> {
    Statement::Mangle(Mangle {
        key: mark.clone(),
        value: Expression::BinaryOperation(Box::new(BinaryOperation::OR(vec![
            and(mark, !mask),
            Expression::Number(bits),
        ]))),
    })
}

/// That a packet is of this direction of its flow.
fn in_direction(direction: Direction) -> Statement<'static> {
    let name = match direction {
        Direction::Original => "original",
        Direction::Reply => "reply",
    };
    equal(ct("direction"), Expression::String(name.into()))
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

fn equal(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match {
        left,
        right,
        op: Operator::EQ,
    })
}

fn ct(key: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir: None,
    }))
}

fn and(left: Expression<'static>, mask: u32) -> Expression<'static> {
    let operands = BinaryOperation::AND(left, Expression::Number(mask));
    Expression::BinaryOperation(Box::new(operands))
}
