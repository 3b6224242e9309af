//! The entries of flows in the tracker.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use conntrack::{Conntrack, Error, Flow, Tuple};

use crate::net::flows::decide::{self, MovedFlow};
use crate::net::mark::{Direction, Mark};

/// How long the entry of a flow that now takes a shorter path stays: packets still on the long path need
/// it, and each of them renews it.
pub(super) const EXPIRY: Duration = Duration::from_secs(10);

/// This host's entries for `moved` flows, by the flows' original tuples, each with the flow as the entry
/// shows it.
pub(super) fn present(
    table: &mut Conntrack,
    moved: &[MovedFlow],
) -> Result<HashMap<Tuple, (MovedFlow, Flow)>, Error> {
    let containers: HashSet<IpAddr> = moved.iter().map(MovedFlow::container).collect();
    let mut present = HashMap::new();
    // One by one: the table may have many times as many entries.
    for flow in moved {
        let found = match table.get(flow.at_container()) {
            Ok(found) => found,
            Err(Error::NotFound(_)) => continue,
            Err(error) => return Err(error),
        };
        if let Some(seen) = decide::seen_by_container(&found, &containers)
            && seen.at_container() == flow.at_container()
        {
            present.insert(flow.original, (seen, found));
        }
    }
    Ok(present)
}

/// A mark's field for one direction, as a change that leaves the rest alone: at the other end of the flow
/// there may be a container that moves at the same time.
pub(super) fn field(mark: Mark, direction: Direction) -> conntrack::MaskedMark {
    conntrack::MaskedMark::masked(mark.0, direction.mask())
}

/// A flow may end at any time: a missing entry is not an error.
pub(super) fn accept_missing(
    results: impl IntoIterator<Item = Result<(), Error>>,
) -> Result<(), Error> {
    results.into_iter().try_for_each(|result| match result {
        Err(Error::NotFound(_)) => Ok(()),
        other => other,
    })
}
