//! Flows that take another tunnel.

use conntrack::{Conntrack, Error, Filter, Flow};

use super::entries::{accept_missing, field, present};
use crate::net::flows::decide::{self, MovedFlow};
use crate::net::mark::{CONNMARK_MASK, Index, Mark};

/// The tracked connections that take a tunnel in either direction.
///
/// # Errors
/// Those of the netlink socket.
pub fn through_tunnels() -> Result<Vec<Flow>, Error> {
    let mut flows = Conntrack::open()?.list(Filter::default())?;
    flows.retain(|flow| flow.mark & CONNMARK_MASK != 0);
    Ok(flows)
}

/// Those of `moved` whose packets for the container leave this host through a tunnel.
///
/// # Errors
/// Those of the netlink socket.
pub fn leaving_through(moved: Vec<MovedFlow>, tunnel: Index) -> Result<Vec<MovedFlow>, Error> {
    let present = present(&mut Conntrack::open()?, &moved)?;
    let leaves = |flow: &MovedFlow| {
        present
            .get(&flow.original)
            .is_some_and(|(seen, entry)| Mark(entry.mark).get(seen.to_container()) == Some(tunnel))
    };
    Ok(moved.into_iter().filter(leaves).collect())
}

/// Redirects flows whose packets for the container leave through tunnel `through` into `instead`.
/// Returns how many there were. Never undone.
///
/// # Errors
/// Those of the netlink socket.
pub fn reroute(moved: &[MovedFlow], through: Index, instead: Index) -> Result<usize, Error> {
    remark(moved, |flow, mark| {
        let mark = decide::rerouted(flow, mark, through, instead)?;
        Some(field(mark, flow.to_container()))
    })
}

/// Redirects flows whose packets for the peer leave through one of the tunnels `through` into `instead`.
/// Returns how many there were. Never undone.
///
/// # Errors
/// Those of the netlink socket.
pub fn return_through(
    moved: &[MovedFlow],
    through: &[Index],
    instead: Index,
) -> Result<usize, Error> {
    remark(moved, |flow, mark| {
        let mark = decide::returned_through(flow, mark, through, instead)?;
        Some(field(mark, flow.to_peer()))
    })
}

fn remark(
    moved: &[MovedFlow],
    decide: impl Fn(&MovedFlow, Mark) -> Option<conntrack::MaskedMark>,
) -> Result<usize, Error> {
    let mut table = Conntrack::open()?;
    let present = present(&mut table, moved)?;
    let marks: Vec<_> = moved
        .iter()
        .filter_map(|flow| {
            let (seen, entry) = present.get(&flow.original)?;
            Some((entry.original, decide(seen, Mark(entry.mark))?))
        })
        .collect();
    let count = marks.len();
    accept_missing(table.set_marks(marks)?)?;
    Ok(count)
}
