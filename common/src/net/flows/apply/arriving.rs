//! Flows that arrive with their container.

use std::collections::HashSet;
use std::net::IpAddr;

use conntrack::{Conntrack, Error, Flow, Tuple};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::entries::{EXPIRY, accept_missing, field, present};
use crate::net::flows::decide::{self, Arrival, MovedFlow};
use crate::net::mark::{CONNMARK_MASK, Index, Mark};

/// Flows that arrive, and what to do about them.
#[derive(Debug)]
pub struct Arriving {
    insert: Vec<(MovedFlow, Flow)>,
    mark: Vec<(Tuple, conntrack::MaskedMark)>,
    /// Entries of [`Here::untracked`].
    expire_soon: Vec<Tuple>,
    installed: Installed,
}

/// What matters about the host that flows arrive at.
#[derive(Debug, Clone, Default)]
pub struct Here {
    /// Its addresses.
    pub addresses: HashSet<IpAddr>,
    /// Networks in which the tracker does not see what containers send each other.
    pub untracked: Vec<IpNet>,
}

/// How to undo [`Arriving::install`] and [`Arriving::redirect`], if need be in another process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Installed {
    inserted: Vec<Tuple>,
    /// Entries that were here already, with their previous marks.
    marked: Vec<(Tuple, conntrack::MaskedMark)>,
}

/// Works out what flows that arrive through `tunnel` need on this host. Changes nothing.
///
/// # Errors
/// Those of the netlink socket.
pub fn arriving(moved: &[MovedFlow], tunnel: Index, here: &Here) -> Result<Arriving, Error> {
    let present = present(&mut Conntrack::open()?, moved)?;
    let mut arriving = Arriving {
        insert: Vec::new(),
        mark: Vec::new(),
        expire_soon: Vec::new(),
        installed: Installed::default(),
    };
    for flow in moved {
        let present = present.get(&flow.original);
        match decide::arrive(flow, present, tunnel, &here.addresses) {
            Arrival::Insert(entry) => {
                arriving.installed.inserted.push(entry.original);
                arriving.insert.push((flow.clone(), *entry));
            }
            Arrival::Mark { entry: key, mark } => {
                let (seen, entry) = present.expect("it has a mark");
                let direction = seen.to_container();
                let before = field(Mark(entry.mark), direction);
                arriving.installed.marked.push((key, before));
                arriving.mark.push((key, field(mark, direction)));
                let near = here.untracked.iter().any(|net| net.contains(&flow.peer()));
                if near && mark.0 & CONNMARK_MASK == 0 {
                    arriving.expire_soon.push(key);
                }
            }
        }
    }
    Ok(arriving)
}

impl Arriving {
    /// How [`Arriving::install`] is undone. Save it before calling that.
    pub fn undo(&self) -> &Installed {
        &self.installed
    }

    /// Inserts the entries of the flows. Call before any of their packets can arrive. Flows that pass
    /// this host already keep their path until [`Arriving::redirect`].
    ///
    /// # Errors
    /// Those of the netlink socket; an entry of the same tuples that belongs to another flow is
    /// one.
    pub fn install(&mut self) -> Result<(), Error> {
        let mut table = Conntrack::open()?;
        let inserted = table.insert_all(self.insert.iter().map(|(_, entry)| entry))?;
        for ((moved, _), inserted) in self.insert.iter().zip(inserted) {
            let Err(error) = inserted else {
                continue;
            };
            // The peer may have arrived at the same moment.
            let mut present = present(&mut table, std::slice::from_ref(moved))?;
            let (seen, entry) = present.remove(&moved.original).ok_or(error)?;
            let open = field(Mark(0), seen.to_container());
            self.mark.push((entry.original, open));
        }
        Ok(())
    }

    /// How many flows pass this host already, and wait to be redirected.
    pub fn waiting(&self) -> usize {
        self.mark.len()
    }

    /// Sends the flows that pass this host to the container here.
    ///
    /// # Errors
    /// Those of the netlink socket.
    pub fn redirect(&self) -> Result<(), Error> {
        let mut table = Conntrack::open()?;
        accept_missing(table.set_marks(self.mark.iter().copied())?)?;
        // The tracker will not see them end.
        accept_missing(
            self.expire_soon
                .iter()
                .map(|key| table.set_timeout(*key, EXPIRY)),
        )
    }
}

impl Installed {
    /// Undoes what [`Arriving::install`] and [`Arriving::redirect`] did, however much of it that was.
    ///
    /// # Errors
    /// Those of the netlink socket.
    pub fn remove(&self) -> Result<(), Error> {
        let mut table = Conntrack::open()?;
        for tuple in &self.inserted {
            accept_missing([table.delete(*tuple)])?;
        }
        accept_missing(table.set_marks(self.marked.iter().copied())?)
    }
}
