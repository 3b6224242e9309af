//! The nftables rules that turn a flow's connmark into a packet's fwmark.
//!
//! ```text
//! table inet live_migration {
//!     chain prerouting_1 {
//!         type filter hook prerouting priority mangle; policy accept;
//!         ct direction original ct mark & 0x003f0000 == 0x00010000
//!             meta mark set meta mark & 0xffc0ffff | 0x00010000
//!         ct direction reply ct mark & 0x0fc00000 == 0x00400000
//!             meta mark set meta mark & 0xffc0ffff | 0x00010000
//!         meta mark & 0x003f0000 == 0x00010000 meta l4proto tcp ip frag-off 0x4000
//!             meta length >= 1421 limit rate over 4/minute burst 2 packets ip frag-off set 0
//!     }
//!     chain output_1 { type route hook output priority mangle; … the same two rules … }
//!     chain nat_prerouting { type nat hook prerouting priority dstnat; }
//!     chain nat_postrouting { type nat hook postrouting priority srcnat; }
//! }
//! ```
//!
//! The third rule is for connections that are older than the tunnel and have agreed on segments that it
//! has no room for. A sender whose packets may not be fragmented is told so by ICMP, and sends smaller
//! ones. Behind a filter that drops ICMP it would send the same segment for ever (RFC 2923, section
//! 2.1): so only a few packets get that answer, and the rest is fragmented (IPv4 only: no router
//! fragments IPv6). TCP only, because what else may not be fragmented need not have an identification of
//! its own (RFC 6864), and fragments of two such packets cannot be told apart.
//!
//! Priority `mangle` comes after conntrack has found the flow and before the routing decision. A
//! packet that came through a tunnel needs no exception: in its direction the mark says "ordinary".
//! Each tunnel has base chains of its own because chains, unlike rules, are removed by name: there
//! are no rule handles to remember, and tunnels do not touch each other's.
//!
//! The two chains of type `nat` stay empty: while one exists the kernel goes on translating the
//! flows that have a translation already, even if whoever set it up removes the last chain of its
//! own (nf_nat_register_fn in the kernel's net/netfilter/nf_nat_core.c).
//!
//! Every change is one transaction of `nft`. Concurrent callers must hold the tunnels' lock.

use nftables::batch::Batch;
use nftables::expr::{
    BinaryOperation, CT, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField,
};
use nftables::helper::{self, NftablesError};
use nftables::schema::{Chain, FlushObject, NfCmd, NfListObject, Rule, Table};
use nftables::stmt::{Limit, Mangle, Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::mark::{Direction, FWMARK_MASK, Index, Mark};
use super::wireguard::MTU;

/// Our table, in the family `inet`.
pub const TABLE: &str = "live_migration";
/// Priority `mangle` of the hooks prerouting and output (nft(8)).
const PRIORITY_MANGLE: i32 = -150;
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
    for chain in chains(index) {
        for direction in Direction::BOTH {
            batch.add(NfListObject::Rule(Rule {
                family: chain.family,
                table: chain.table.clone(),
                chain: chain.name.clone(),
                expr: divert(direction, index).into(),
                ..Rule::default()
            }));
        }
    }
    let [arriving, _] = chains(index);
    batch.add(NfListObject::Rule(Rule {
        family: arriving.family,
        table: arriving.table,
        chain: arriving.name,
        expr: allow_fragments(index).into(),
        ..Rule::default()
    }));
    apply("add the tunnel's firewall rules", batch)
}

/// Diverts nothing to this tunnel any more, whether or not it did.
pub fn remove_tunnel(index: Index) -> Result<(), FirewallError> {
    let mut batch = emptied(index);
    for chain in chains(index) {
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
pub(super) fn apply(what: &'static str, batch: Batch) -> Result<(), FirewallError> {
    helper::apply_ruleset(&batch.to_nftables()).map_err(|source| FirewallError::new(what, source))
}

/// Table and chains, made if missing and emptied if not: what follows in the transaction finds
/// the same state every time. (`destroy`, which ignores what is missing, needs nft 1.0.7 and
/// Linux 6.3.)
fn emptied(index: Index) -> Batch<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table()));
    for (name, hook, priority) in [
        ("nat_prerouting", NfHook::Prerouting, PRIORITY_DSTNAT),
        ("nat_postrouting", NfHook::Postrouting, PRIORITY_SRCNAT),
    ] {
        let name = name.into();
        batch.add(NfListObject::Chain(base_chain(
            name,
            hook,
            NfChainType::NAT,
            priority,
        )));
    }
    for chain in chains(index) {
        batch.add(NfListObject::Chain(chain.clone()));
        batch.add_cmd(NfCmd::Flush(FlushObject::Chain(chain)));
    }
    batch
}

fn table() -> Table<'static> {
    Table {
        family: NfFamily::INet,
        name: TABLE.into(),
        handle: None,
    }
}

/// For what arrives, and for what this host sends itself (`route`: the new mark is looked up again).
fn chains(index: Index) -> [Chain<'static>; 2] {
    [
        ("prerouting", NfHook::Prerouting, NfChainType::Filter),
        ("output", NfHook::Output, NfChainType::Route),
    ]
    .map(|(name, hook, kind)| {
        base_chain(
            format!("{name}_{index}").into(),
            hook,
            kind,
            PRIORITY_MANGLE,
        )
    })
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

fn divert(direction: Direction, index: Index) -> Vec<Statement<'static>> {
    let name = match direction {
        Direction::Original => "original",
        Direction::Reply => "reply",
    };
    let mark = || Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Mark }));
    vec![
        equal(ct("direction"), Expression::String(name.into())),
        equal(
            and(ct("mark"), direction.mask()),
            Expression::Number(Mark(0).with(direction, Some(index)).0),
        ),
        Statement::Mangle(Mangle {
            key: mark(),
            value: Expression::BinaryOperation(Box::new(BinaryOperation::OR(vec![
                and(mark(), !FWMARK_MASK),
                Expression::Number(index.fwmark()),
            ]))),
        }),
    ]
}

fn allow_fragments(index: Index) -> Vec<Statement<'static>> {
    let meta = |key| Expression::Named(NamedExpression::Meta(Meta { key }));
    let fragments = || {
        Expression::Named(NamedExpression::Payload(Payload::PayloadField(
            PayloadField {
                protocol: "ip".into(),
                field: "frag-off".into(),
            },
        )))
    };
    vec![
        equal(
            and(meta(MetaKey::Mark), FWMARK_MASK),
            Expression::Number(index.fwmark()),
        ),
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
