//! Silence in a container's network namespace while it is checkpointed or restored.
//!
//! A table of our own drops everything that arrives or leaves, loopback included, except packets
//! with the mark that CRIU gives its own (`SOCCR_MARK` in its soccr/soccr.h). CRIU then need not
//! lock the network itself, which would cost it several processes during the outage.
//!
//! Both calls are on the outage's critical path: each is one thread and one `nft`.

use std::path::Path;

use nftables::batch::Batch;
use nftables::expr::{Expression, Meta, MetaKey, NamedExpression};
use nftables::schema::{Chain, NfListObject, Rule, Table};
use nftables::stmt::{Accept, Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::firewall::{self, FirewallError};
use super::netns::{self, EnterError};

/// Our table in the container's namespace, in the family `inet`.
pub const TABLE: &str = "live_migration_quarantine";
/// The mark of CRIU's own packets.
const CRIU_MARK: u32 = 0xC114;
/// Before conntrack's defragmentation (-400), so that no state changes either.
const PRIORITY: i32 = -450;

/// The quarantine could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// The namespace is gone, or may not be entered.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// `nft` failed.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
}

/// Drops all packets in the namespace at `netns` from now on. Applying it twice is the same as
/// once. Undone by [`lift`], and by the namespace's end.
pub fn apply(netns: &Path) -> Result<(), QuarantineError> {
    let mut batch = Batch::new();
    // Removed first, if it is there, so that its rules are there once.
    batch.add(NfListObject::Table(table()));
    batch.delete(NfListObject::Table(table()));
    batch.add(NfListObject::Table(table()));
    for (name, hook) in [
        ("prerouting", NfHook::Prerouting),
        ("input", NfHook::Input),
        ("output", NfHook::Output),
    ] {
        batch.add(NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: TABLE.into(),
            name: name.into(),
            _type: Some(NfChainType::Filter),
            hook: Some(hook),
            prio: Some(PRIORITY),
            policy: Some(NfChainPolicy::Drop),
            ..Chain::default()
        }));
        batch.add(NfListObject::Rule(Rule {
            family: NfFamily::INet,
            table: TABLE.into(),
            chain: name.into(),
            expr: vec![
                Statement::Match(Match {
                    left: Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Mark })),
                    right: Expression::Number(CRIU_MARK),
                    op: Operator::EQ,
                }),
                Statement::Accept(Some(Accept {})),
            ]
            .into(),
            ..Rule::default()
        }));
    }
    change(netns, "silence the container's network", batch)
}

/// Lets packets pass again in the namespace at `netns`, whether or not they were dropped.
pub fn lift(netns: &Path) -> Result<(), QuarantineError> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table()));
    batch.delete(NfListObject::Table(table()));
    change(netns, "let the container's packets pass again", batch)
}

fn change(netns: &Path, what: &'static str, batch: Batch) -> Result<(), QuarantineError> {
    netns::in_netns(netns, || firewall::apply(what, batch))??;
    Ok(())
}

fn table() -> Table<'static> {
    Table {
        family: NfFamily::INet,
        name: TABLE.into(),
        handle: None,
    }
}
