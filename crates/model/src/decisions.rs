//! What the model does not decide itself.

use common::journal::Progress;
use common::protocol::Fate;
use common::transaction::{self, DestinationStep, SourceStep};

/// The decisions of [`common::transaction`], and the order of the commit at the destination. They
/// can be replaced by broken ones, to prove that the exploration would notice.
#[derive(Clone, Copy)]
pub struct Decisions {
    /// [`transaction::fate`].
    pub fate: fn(Option<Progress>, bool, bool) -> Fate,
    /// [`transaction::may_begin`].
    pub may_begin: fn(Option<Progress>) -> bool,
    /// [`transaction::unsettled`].
    pub unsettled: fn(Progress, bool) -> bool,
    /// [`transaction::source`].
    pub source: fn(Progress, Option<Fate>, bool) -> Option<SourceStep>,
    /// [`transaction::destination`].
    pub destination: fn(Progress, bool) -> Option<DestinationStep>,
    /// A container whose earlier migration is not settled may migrate again.
    pub migrate_unsettled: bool,
    /// The destination tries again, when it is asked, to settle what nobody is at work on.
    pub settle_when_asked: bool,
    /// The destination writes down the commit before it lets packets out.
    pub record_first: bool,
    /// The source writes down that it is committing before it sends `Commit`.
    pub announce: bool,
}

impl Default for Decisions {
    fn default() -> Self {
        Decisions {
            fate: transaction::fate,
            may_begin: transaction::may_begin,
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
