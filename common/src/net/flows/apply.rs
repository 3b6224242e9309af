//! Flows in the kernel: listing a container's, installing those that arrive, redirecting those that
//! leave. [`crate::net::flows::decide`] makes the decisions; this applies them through netlink.
//!
//! Every call opens its own netlink socket in the calling thread's network namespace.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use conntrack::{Conntrack, Error, Filter, Flow, Key, Protocol, Tuple};
use serde::{Deserialize, Serialize};

use super::decide::{self, Arrival, Departure, MovedFlow};
use crate::net::mark::{CONNMARK_MASK, Direction, Index, Mark};

/// How long the entry of a flow that now takes a shorter path stays: packets still on the long path need
/// it, and each of them renews it.
const EXPIRY: Duration = Duration::from_secs(10);

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

/// Redirects flows whose packets for the peer leave through another tunnel into `tunnel`. Returns how
/// many there were. Never undone.
///
/// # Errors
/// Those of the netlink socket.
pub fn return_through(moved: &[MovedFlow], tunnel: Index) -> Result<usize, Error> {
    remark(moved, |flow, mark| {
        let mark = decide::returned_through(flow, mark, tunnel)?;
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

/// This host's entries for `moved` flows, by the flows' original tuples, each with the flow as the entry
/// shows it.
fn present(
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

/// A mark's field for one direction, as a change that leaves the rest alone: at the other end of the flow
/// there may be a container that moves at the same time.
fn field(mark: Mark, direction: Direction) -> conntrack::MaskedMark {
    conntrack::MaskedMark::masked(mark.0, direction.mask())
}

/// A flow may end at any time: a missing entry is not an error.
fn accept_missing(results: impl IntoIterator<Item = Result<(), Error>>) -> Result<(), Error> {
    results.into_iter().try_for_each(|result| match result {
        Err(Error::NotFound(_)) => Ok(()),
        other => other,
    })
}
