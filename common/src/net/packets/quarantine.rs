//! Silence in a container's network namespace while it is checkpointed or restored.
//!
//! A table of our own stops everything that arrives or leaves, loopback included, except packets with
//! the mark that CRIU gives its own (`SOCCR_MARK` in its soccr/soccr.h). CRIU then need not lock the
//! network itself, for which it would start several processes during the outage.
//!
//! IPv6's neighbour discovery passes, and so does ARP, which no rule here sees. Without them the host could
//! not deliver packets that are to wait, and would tell their senders that the container is unreachable.
//!
//! At the source packets are dropped: by then those for the container go to the destination anyway. The
//! table is made dormant ([`prepare`]) and woken by one netlink message ([`wake`]), because waking is on
//! the outage's critical path. At the destination packets wait ([`queue_packets`]) until the commit.

use std::io;
use std::path::Path;

use nftables::batch::Batch;
use nftables::expr::{Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, SetItem};
use nftables::schema::{Chain, FlushObject, NfCmd, NfListObject, Rule, Table};
use nftables::stmt::{Accept, Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::queue::{ARRIVING, LEAVING, PacketQueue, QueueError};
use crate::net::kernel::netns::{self, EnterError};
use crate::net::kernel::nfnetlink::{Nfnetlink, TableState};
use crate::net::rules::nft::FirewallError;
use crate::net::rules::queue::IfNobodyReads;
use crate::net::rules::{nft, queue};

/// Our table in the container's namespace, in the family `inet`.
pub const TABLE: &str = "live_migration_quarantine";
/// The mark of CRIU's own packets.
const CRIU_MARK: u32 = 0xC114;
/// Before conntrack's defragmentation (-400), so that no state changes either.
const PRIORITY: i32 = -450;

const CHAINS: [(&str, NfHook); 2] = [
    ("prerouting", NfHook::Prerouting),
    ("output", NfHook::Output),
];

/// The quarantine could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// The namespace is gone, or may not be entered.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// `nft` failed.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The kernel refused a change.
    #[error("cannot silence the container's network: {0}")]
    Netlink(#[from] io::Error),
    /// Packets cannot be queued.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Prepares for [`wake`]. Packets pass as before. Undone by [`lift`], and by the namespace's end.
pub fn prepare(netns: &Path) -> Result<(), QuarantineError> {
    lift(netns)?;
    netns::in_netns(netns, || {
        Nfnetlink::open()?.set_table(TABLE, TableState::Dormant)?;
        // Only rules and chains: naming the dormant table again would wake it.
        let mut batch = Batch::new();
        add_rules(&mut batch);
        Ok(nft::apply("prepare the quarantine", batch)?)
    })?
}

/// Drops all packets in the namespace at `netns` from now on. Needs [`prepare`]. Undone by
/// [`lift`], and by the namespace's end.
pub fn wake(netns: &Path) -> Result<(), QuarantineError> {
    netns::in_netns(netns, || {
        Ok(Nfnetlink::open()?.set_table(TABLE, TableState::Awake)?)
    })?
}

/// Drops all packets in the namespace at `netns` from now on. May be repeated. Undone by [`lift`], and
/// by the namespace's end.
pub fn apply(netns: &Path) -> Result<(), QuarantineError> {
    let mut batch = removal();
    batch.add(NfListObject::Table(table()));
    add_rules(&mut batch);
    change(netns, "silence the container's network", batch)
}

/// Queues all packets in the namespace at `netns` from now on, until [`PacketQueue::release`].
/// Undone by [`lift`], and by the namespace's end. Where this fails packets are dropped, as after
/// [`apply`].
pub fn queue_packets(netns: &Path) -> Result<PacketQueue, QuarantineError> {
    apply(netns)?;
    // Bound before any packet is handed to it: without a reader they would be dropped.
    let packets = PacketQueue::begin(netns)?;
    netns::in_netns(netns, || {
        let [arriving, leaving] = CHAINS.map(|(name, hook)| chain(name, hook));
        queue::queue(&arriving, ARRIVING, IfNobodyReads::Drop)?;
        queue::queue(&leaving, LEAVING, IfNobodyReads::Drop)
    })??;
    Ok(packets)
}

/// Whether the container in the calling thread's namespace is being migrated, so that it may not stay on this
/// host.
pub(crate) fn is_here() -> io::Result<bool> {
    Nfnetlink::open()?.has_table(TABLE)
}

/// Lets packets pass the table again without removing it: packets that are still queued would be lost with
/// the chain that queued them.
pub fn open(netns: &Path) -> Result<(), QuarantineError> {
    let mut batch = Batch::new();
    for (name, hook) in CHAINS {
        let chain = Chain {
            policy: Some(NfChainPolicy::Accept),
            ..chain(name, hook)
        };
        batch.add(NfListObject::Chain(chain.clone()));
        batch.add_cmd(NfCmd::Flush(FlushObject::Chain(chain)));
    }
    change(netns, "let the container's packets pass again", batch)
}

/// Removes the quarantine from the namespace at `netns`, whether or not it is there.
pub fn lift(netns: &Path) -> Result<(), QuarantineError> {
    change(netns, "lift the quarantine", removal())
}

fn removal() -> Batch<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table()));
    batch.delete(NfListObject::Table(table()));
    batch
}

/// Chains that drop everything but CRIU's packets and neighbour discovery.
fn add_rules(batch: &mut Batch<'static>) {
    for (name, hook) in CHAINS {
        batch.add(NfListObject::Chain(chain(name, hook)));
        for passing in [of_criu(), neighbour_discovery()] {
            let accept = Statement::Accept(Some(Accept {}));
            batch.add(rule(name, vec![passing, accept]));
        }
    }
}

fn of_criu() -> Statement<'static> {
    Statement::Match(Match {
        left: Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Mark })),
        right: Expression::Number(CRIU_MARK),
        op: Operator::EQ,
    })
}

fn neighbour_discovery() -> Statement<'static> {
    let kinds = ["nd-neighbor-solicit", "nd-neighbor-advert"];
    let kinds = kinds.map(|kind| SetItem::Element(Expression::String(kind.into())));
    Statement::Match(Match {
        left: Expression::Named(NamedExpression::Payload(Payload::PayloadField(
            PayloadField {
                protocol: "icmpv6".into(),
                field: "type".into(),
            },
        ))),
        right: Expression::Named(NamedExpression::Set(kinds.into())),
        op: Operator::EQ,
    })
}

fn chain(name: &'static str, hook: NfHook) -> Chain<'static> {
    Chain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: name.into(),
        _type: Some(NfChainType::Filter),
        hook: Some(hook),
        prio: Some(PRIORITY),
        policy: Some(NfChainPolicy::Drop),
        ..Chain::default()
    }
}

fn rule(chain: &'static str, statements: Vec<Statement<'static>>) -> NfListObject<'static> {
    NfListObject::Rule(Rule {
        family: NfFamily::INet,
        table: TABLE.into(),
        chain: chain.into(),
        expr: statements.into(),
        ..Rule::default()
    })
}

fn change(netns: &Path, what: &'static str, batch: Batch) -> Result<(), QuarantineError> {
    netns::in_netns(netns, || nft::apply(what, batch))??;
    Ok(())
}

fn table() -> Table<'static> {
    Table {
        family: NfFamily::INet,
        name: TABLE.into(),
        handle: None,
    }
}
