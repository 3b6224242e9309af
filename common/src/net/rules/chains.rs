//! The table, and the chains that each tunnel has in it.

use nftables::batch::Batch;
use nftables::schema::{Chain, NfListObject, Table};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::nft::{TABLE, empty};
use crate::net::mark::Index;

/// Before the priority `raw` (nft(8)), where others make their first checks.
const PRIORITY_FIRST: i32 = -310;
/// After the priority `security` (nft(8)), where others make their last checks.
const PRIORITY_LAST: i32 = 200;
/// After all translation of packets that leave: at priority `srcnat`, and after it for some (nft(8)).
const PRIORITY_LEAVING: i32 = 300;
/// Priority `mangle` of the hooks output and input (nft(8)).
const PRIORITY_MANGLE: i32 = -150;
/// Before the priority `dstnat`, where others translate.
const PRIORITY_FORWARD: i32 = PRIORITY_DSTNAT - 1;
/// Priority `dstnat` (nft(8)).
const PRIORITY_DSTNAT: i32 = -100;
/// Priority `srcnat` (nft(8)).
const PRIORITY_SRCNAT: i32 = 100;

/// Table and chains, made if missing.
pub(super) fn made(index: Index) -> Batch<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table()));
    for chain in nat_chains().into_iter().chain(all_chains(index)) {
        batch.add(NfListObject::Chain(chain));
    }
    batch
}

/// Table and chains, made if missing and emptied if not, so that what follows in the transaction finds
/// the same state every time. (`destroy`, which ignores what is missing, needs nft 1.0.7 and Linux 6.3.)
pub(super) fn emptied(index: Index) -> Batch<'static> {
    let mut batch = made(index);
    for chain in all_chains(index) {
        empty(&mut batch, &chain);
    }
    batch
}

pub(super) fn table() -> Table<'static> {
    Table {
        family: NfFamily::INet,
        name: TABLE.into(),
        handle: None,
    }
}

pub(super) fn all_chains(index: Index) -> impl Iterator<Item = Chain<'static>> {
    let others = forward_chains(index)
        .into_iter()
        .chain([guard_chain(index)])
        .chain(waiting_chains(index));
    [guests_chain(index)]
        .into_iter()
        .chain(chains(index))
        .chain(others)
}

/// For what arrives, first and last, and in between what of it may come out of the tunnel; for what this host
/// sends itself (type `route`: after a change of the mark the route is looked up again); for what may enter
/// the tunnel, and for what leaves.
pub(super) fn chains(index: Index) -> [Chain<'static>; 6] {
    use NfChainType::{Filter, Route};
    use NfHook::{Output, Postrouting, Prerouting};
    [
        ("arriving", Prerouting, Filter, PRIORITY_FIRST),
        ("from_tunnel", Prerouting, Filter, PRIORITY_LAST - 1),
        ("prerouting", Prerouting, Filter, PRIORITY_LAST),
        ("output", Output, Route, PRIORITY_MANGLE),
        ("to_tunnel", Postrouting, Filter, PRIORITY_LEAVING - 1),
        ("leaving", Postrouting, Filter, PRIORITY_LEAVING),
    ]
    .map(|(name, hook, kind, priority)| {
        base_chain(format!("{name}_{index}").into(), hook, kind, priority)
    })
}

pub(super) fn nat_chains() -> [Chain<'static>; 2] {
    [
        ("nat_prerouting", NfHook::Prerouting, PRIORITY_DSTNAT),
        ("nat_postrouting", NfHook::Postrouting, PRIORITY_SRCNAT),
    ]
    .map(|(name, hook, priority)| base_chain(name.into(), hook, NfChainType::NAT, priority))
}

/// For new connections that arrive, and for those of this host's own processes.
pub(super) fn forward_chains(index: Index) -> [Chain<'static>; 2] {
    [
        ("forward", NfHook::Prerouting),
        ("forward_output", NfHook::Output),
    ]
    .map(|(name, hook)| {
        let name = format!("{name}_{index}").into();
        base_chain(name, hook, NfChainType::NAT, PRIORITY_FORWARD)
    })
}

/// For what leaves, last of all; and the chain for the rule about the queue, which has no conditions.
pub(super) fn waiting_chains(index: Index) -> [Chain<'static>; 2] {
    let (hook, kind) = (NfHook::Postrouting, NfChainType::Filter);
    let queued = inner_chain(format!("queued_{index}"));
    let name = format!("waiting_{index}").into();
    [base_chain(name, hook, kind, PRIORITY_LEAVING + 1), queued]
}

/// For packets of containers that came through the tunnel.
pub(super) fn guests_chain(index: Index) -> Chain<'static> {
    inner_chain(format!("guests_{index}"))
}

/// For what is for this host itself.
pub(super) fn guard_chain(index: Index) -> Chain<'static> {
    let name = format!("guard_{index}").into();
    base_chain(name, NfHook::Input, NfChainType::Filter, PRIORITY_MANGLE)
}

/// A chain that others jump to.
fn inner_chain(name: String) -> Chain<'static> {
    Chain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: name.into(),
        ..Chain::default()
    }
}

pub(super) fn base_chain(
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
