//! The decisions that the model takes from the agents.

use common::journal::Progress;
use common::protocol::Fate;
use common::transaction::{self, DestinationStep, SourceStep};

/// The decisions of [`common::transaction`], and the order of steps in a commit. They can be
/// replaced by broken ones, to prove that the exploration would notice.
#[derive(Clone, Copy)]
pub struct Decisions {
    /// [`transaction::fate`].
    pub fate: fn(Option<Progress>, bool) -> Fate,
    /// [`transaction::unsettled`].
    pub unsettled: fn(Progress, bool) -> bool,
    /// [`transaction::source`].
    pub source: fn(Progress, Option<Fate>, bool) -> Option<SourceStep>,
    /// [`transaction::destination`].
    pub destination: fn(Progress, bool) -> Option<DestinationStep>,
    /// A container may migrate again although an earlier migration of it is unsettled.
    pub migrate_unsettled: bool,
    /// When it is asked, the destination tries again to finish or undo migrations that nobody is
    /// working on.
    pub settle_when_asked: bool,
    /// The destination records the commit before it releases packets.
    pub record_first: bool,
    /// The source records that it is committing before it sends `Commit`.
    pub announce: bool,
}

impl Default for Decisions {
    fn default() -> Self {
        Decisions {
            fate: transaction::fate,
            unsettled: transaction::unsettled,
            source: transaction::source,
            destination: transaction::destination,
            migrate_unsettled: false,
            settle_when_asked: true,
            record_first: true,
            announce: true,
        }
    }
}
