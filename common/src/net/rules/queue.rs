//! Rules that hand packets to a queue of netfilter, where they wait.

use std::collections::HashSet;

use nftables::batch::Batch;
use nftables::expr::Expression;
use nftables::schema::Chain;
use nftables::stmt::{JumpTarget, Match, Operator, Queue, QueueFlag, Statement};

use super::chains::waiting_chains;
use super::expressions::{and, ct, leaves_through};
use super::nft::{FirewallError, apply, empty, fill};
use crate::net::kernel::nfnetlink::Nfnetlink;
use crate::net::mark::{CONNMARK_MASK, Index};

/// What becomes of packets for a queue that nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfNobodyReads {
    Drop,
    Pass,
}

/// Hands every packet that gets to the end of a chain of the family `inet` to queue `number`.
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

/// Has packets of moved flows that leave through the tunnel wait in queue `number`. If nobody reads it they
/// pass. Undone by [`end`], and by [`super::tunnel::remove_tunnel`].
pub(crate) fn begin(index: Index, number: u16) -> Result<(), FirewallError> {
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

/// Queues no more packets. Those that wait already stay queued.
pub(crate) fn end(index: Index) -> Result<(), FirewallError> {
    let mut batch = Batch::new();
    for chain in waiting_chains(index) {
        empty(&mut batch, &chain);
    }
    apply("have packets wait no more", batch)
}
