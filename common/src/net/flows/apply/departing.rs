//! Flows that leave with their container.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use conntrack::{Conntrack, Error, Filter, Flow, Key, Protocol, Tuple};
use ipnet::IpNet;

use super::entries::{EXPIRY, accept_missing, field};
use crate::net::flows::decide::{self, Departure, MovedFlow};
use crate::net::mark::{Index, Mark};

/// Tolerance when deciding whether a packet has renewed the entry since.
const FADING: Duration = Duration::from_secs(2);

/// How many times recreating an entry is tried.
const MOST_REPLACEMENTS: usize = 100;

/// Flows of a container with their entries, as they were when listed.
#[derive(Debug, Clone, Default)]
pub struct Departing {
    flows: Vec<(MovedFlow, Flow)>,
    /// Entries to make, or to give their full time: the tracker has seen no packets that would renew them.
    untracked: Vec<Flow>,
}

/// Lists the flows of the container with these addresses. `connections` are those that the tracker does not
/// see, as the tuples of the container's packets: they are flows too.
///
/// # Errors
/// Those of the netlink socket.
pub fn departing(
    addresses: &HashSet<IpAddr>,
    mut connections: HashSet<Tuple>,
) -> Result<Departing, Error> {
    let table = Conntrack::open()?.list(Filter::default())?;
    let mut flows: Vec<_> = table
        .into_iter()
        .filter_map(|flow| Some((decide::seen_by_container(&flow, addresses)?, flow)))
        .collect();
    let mut untracked = Vec::new();
    // The tracker may have seen one of them while its packets came by way of another host.
    for (moved, flow) in &flows {
        let own = moved.at_container();
        if connections.remove(&own) {
            let (_, Flow { timeout, .. }) = decide::untracked(own);
            untracked.push(Flow {
                timeout,
                ..flow.clone()
            });
        }
    }
    for own in connections {
        let (moved, entry) = decide::untracked(own);
        untracked.push(entry.clone());
        flows.push((moved, entry));
    }
    Ok(Departing { flows, untracked })
}

impl Departing {
    /// Those that were not there when `earlier` was listed.
    pub fn since(mut self, earlier: &Departing) -> Departing {
        let known: HashSet<Tuple> = earlier.flows.iter().map(|(_, f)| f.original).collect();
        let new = |flow: &Flow| !known.contains(&flow.original);
        self.flows.retain(|(_, flow)| new(flow));
        self.untracked.retain(new);
        self
    }

    /// What to tell the destination.
    pub fn flows(&self) -> impl Iterator<Item = &MovedFlow> {
        self.flows.iter().map(|(moved, _)| moved)
    }

    /// The peers with addresses in these networks.
    pub fn peers_in(&self, networks: &[IpNet]) -> HashSet<IpAddr> {
        decide::peers_in(self.flows(), networks)
    }

    /// Lets segments pass that the tracker cannot judge: while both ends move to other hosts, it may see one
    /// direction only. Never undone.
    ///
    /// # Errors
    /// Those of the netlink socket.
    pub fn disable_window_checks(&self) -> Result<(), Error> {
        let connections = self.flows.iter().map(|(_, flow)| flow);
        let connections = connections.filter(|flow| flow.tcp.is_some());
        accept_missing(Conntrack::open()?.disable_window_checks(connections)?)
    }

    /// Of flows that must be [recreated](Self::recreate) before they can be redirected: the tuples of the
    /// packets that the container sends.
    pub fn to_recreate(&self) -> Vec<Tuple> {
        self.masqueraded_inbound().map(|flow| flow.reply).collect()
    }

    /// Recreates entries with their translation: only entries made through netlink do not remember the
    /// interface that their first packets left by. A packet that comes in between would begin a new flow, so
    /// those of the container must not get through meanwhile.
    ///
    /// # Errors
    /// Those of the netlink socket.
    pub fn recreate(&self) -> Result<(), Error> {
        let mut table = Conntrack::open()?;
        self.masqueraded_inbound()
            .try_for_each(|flow| recreate(&mut table, flow))
    }

    fn masqueraded_inbound(&self) -> impl Iterator<Item = &Flow> {
        let inbound =
            |(moved, flow): &&(MovedFlow, Flow)| decide::is_masqueraded_inbound(moved, flow);
        self.flows.iter().filter(inbound).map(|(_, flow)| flow)
    }

    /// Redirects the flows into `tunnel`: packets for the container leave through it from the moment
    /// each mark changes. Flows that have ended in the meantime are skipped. Undone by
    /// [`Departing::restore`].
    ///
    /// # Errors
    /// Those of the netlink socket.
    pub fn redirect(&self, tunnel: Index) -> Result<(), Error> {
        let mut table = Conntrack::open()?;
        let inserted = table.insert_all(&self.untracked)?;
        for (entry, inserted) in self.untracked.iter().zip(inserted) {
            match (inserted, entry.timeout) {
                (Err(Error::Exists(_)), Some(timeout)) => {
                    accept_missing([table.set_timeout(entry, timeout)])?;
                }
                (inserted, _) => inserted?,
            }
        }
        let mut marks = Vec::new();
        for (moved, flow) in &self.flows {
            let Departure::Mark(mark) = decide::depart(moved, flow, tunnel) else {
                continue;
            };
            marks.push((Key::from(flow), field(mark, moved.to_container())));
        }
        accept_missing(table.set_marks(marks)?)
    }

    /// Gives every flow the mark it had when it was listed.
    ///
    /// # Errors
    /// Those of the netlink socket.
    pub fn restore(&self) -> Result<(), Error> {
        let mut table = Conntrack::open()?;
        accept_missing(table.set_marks(self.flows.iter().map(before))?)?;
        let untracked = self.untracked.iter();
        accept_missing(untracked.map(|flow| table.set_timeout(flow, EXPIRY)))
    }

    /// The same for flows of datagrams only. [`Departing::redirect`] redirects them again. Returns how many
    /// there are.
    ///
    /// # Errors
    /// Those of the netlink socket.
    pub fn restore_datagrams(&self) -> Result<usize, Error> {
        let of_datagrams =
            |(moved, _): &&(MovedFlow, Flow)| moved.original.protocol == Protocol::Udp;
        let marks: Vec<_> = self.flows.iter().filter(of_datagrams).map(before).collect();
        let count = marks.len();
        accept_missing(Conntrack::open()?.set_marks(marks)?)?;
        Ok(count)
    }

    /// Flows that moved through `tunnel` and entered at another host, by the tunnel that they come through.
    pub fn passing(&self, tunnel: Index) -> BTreeMap<Index, Vec<MovedFlow>> {
        let mut passing: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (moved, flow) in &self.flows {
            match decide::passes_from(moved, flow) {
                Some(through) if through != tunnel => {
                    passing.entry(through).or_default().push(moved.clone());
                }
                _ => {}
            }
        }
        passing
    }

    /// Makes the entries of flows that used to come through tunnel `through` expire soon. An entry whose
    /// packets still come lives on.
    ///
    /// # Errors
    /// Those of the netlink socket.
    pub fn expire_soon(&self, through: Index) -> Result<(), Error> {
        let mut table = Conntrack::open()?;
        let fading = self.came_through(through);
        accept_missing(fading.map(|flow| table.set_timeout(flow, EXPIRY)))
    }

    /// Deletes those of them for which no packet has come since [`Departing::expire_soon`], a moment ago. As
    /// long as such an entry exists, a container that comes here would find its flow passing here already.
    ///
    /// # Errors
    /// Those of the netlink socket.
    pub fn delete_faded(&self, through: Index) -> Result<(), Error> {
        let mut table = Conntrack::open()?;
        for flow in self.came_through(through) {
            let now = match table.get(flow) {
                Err(Error::NotFound(_)) => continue,
                now => now?,
            };
            let fades = |left: Duration| left <= EXPIRY && left + FADING >= EXPIRY;
            if now.timeout.is_some_and(fades) {
                accept_missing([table.delete(flow)])?;
            }
        }
        Ok(())
    }

    fn came_through(&self, through: Index) -> impl Iterator<Item = &Flow> {
        let came = move |(moved, flow): &&(MovedFlow, Flow)| {
            decide::passes_from(moved, flow) == Some(through)
        };
        self.flows.iter().filter(came).map(|(_, flow)| flow)
    }

    /// Final pass over the entries, after the commit. Entries of flows whose path no longer touches this host
    /// are deleted; those that turn out to need `tunnel` are redirected. Those that have vanished since
    /// [`Departing::redirect`] are inserted, with their translation and mark: some versions of netavark delete
    /// a published port's UDP entries when its container goes. Returns how many were inserted. Never undone.
    ///
    /// # Errors
    /// Those of the netlink socket.
    pub fn reconcile(&self, tunnel: Index) -> Result<usize, Error> {
        let mut table = Conntrack::open()?;
        let listed = table.list(Filter::default())?;
        let present: HashMap<Tuple, &Flow> = listed
            .iter()
            .flat_map(|flow| [(flow.original, flow), (flow.reply, flow)])
            .collect();
        let mut inserted = 0;
        let mut marks = Vec::new();
        for (moved, flow) in &self.flows {
            // The peer may have moved in the meantime, and come by another tunnel now.
            let now = present.get(&flow.original).copied();
            match (decide::depart(moved, now.unwrap_or(flow), tunnel), now) {
                (Departure::Forget, _) => accept_missing([table.delete(flow)])?,
                (Departure::Mark(mark), Some(now)) if mark.0 == now.mark => {}
                (Departure::Mark(mark), Some(_)) => {
                    marks.push((Key::from(flow), field(mark, moved.to_container())));
                }
                (Departure::Mark(mark), None) => {
                    let entry = Flow {
                        mark: mark.0,
                        ..flow.clone()
                    };
                    match table.insert(&entry) {
                        Ok(()) => inserted += 1,
                        Err(Error::Exists(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        accept_missing(table.set_marks(marks)?)?;
        Ok(inserted)
    }
}

/// How many live flows of the container with these addresses do not lead into `tunnel`. They began during
/// the cut-over; once the old container is removed their packets go nowhere.
///
/// # Errors
/// Those of the netlink socket.
pub fn left_behind(addresses: &HashSet<IpAddr>, tunnel: Index) -> Result<usize, Error> {
    let table = Conntrack::open()?.list(Filter::default())?;
    let behind = table.iter().filter(|flow| {
        decide::seen_by_container(flow, addresses)
            .is_some_and(|moved| Mark(flow.mark).get(moved.to_container()) != Some(tunnel))
    });
    Ok(behind.count())
}

/// For recovery after a crash: deletes what is left of flows of the container with these addresses, which has moved
/// from this host to where they came from. Returns how many there were. Never undone.
///
/// # Errors
/// Those of the netlink socket.
pub fn forget_returned(addresses: &HashSet<IpAddr>) -> Result<usize, Error> {
    let mut table = Conntrack::open()?;
    let flows = table.list(Filter::default())?;
    let returned = flows.iter().filter(|flow| {
        decide::seen_by_container(flow, addresses)
            .is_some_and(|moved| decide::has_returned(&moved, flow))
    });
    let mut count = 0;
    for flow in returned {
        accept_missing([table.delete(flow)])?;
        count += 1;
    }
    Ok(count)
}

/// For recovery after a crash: sends the flows of the container with these addresses to it on this
/// host again, whatever tunnel they were redirected into.
///
/// # Errors
/// Those of the netlink socket.
pub fn back_to_container(addresses: &HashSet<IpAddr>) -> Result<(), Error> {
    let mut table = Conntrack::open()?;
    let flows = table.list(Filter::default())?;
    let marks = flows.iter().filter_map(|flow| {
        let moved = decide::seen_by_container(flow, addresses)?;
        Some((Key::from(flow), field(Mark(0), moved.to_container())))
    });
    accept_missing(table.set_marks(marks)?)
}

fn recreate(table: &mut Conntrack, flow: &Flow) -> Result<(), Error> {
    for _ in 0..MOST_REPLACEMENTS {
        let now = match table.get(flow) {
            Err(Error::NotFound(_)) => return Ok(()),
            now => now?,
        };
        accept_missing([table.delete(flow)])?;
        match table.insert(&now) {
            // A packet came in between: its entry is masqueraded again.
            Err(Error::Exists(_)) => {}
            inserted => return inserted,
        }
    }
    tracing::warn!("{} is too busy: it may end", flow.original);
    Ok(())
}

/// The mark that a flow had when it was listed.
fn before((moved, flow): &(MovedFlow, Flow)) -> (Key, conntrack::MaskedMark) {
    let mark = field(Mark(flow.mark), moved.to_container());
    (Key::from(flow), mark)
}
