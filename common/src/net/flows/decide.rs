//! How the flows of a container change hosts. Pure: [`crate::net::flows::apply`] applies it to the kernel.
//!
//! The container keeps its address, so a flow looks the same to it everywhere. What differs from
//! host to host is how packets get from there to the container and to the peer: by ordinary
//! routing, or through a tunnel. A flow's connmark says which, with a field for each direction
//! ([`crate::net::mark`]), and moving the container means changing fields:
//!
//! * on the **source** the entry, with its translation, stays as it is; the field of the direction
//!   that leads *to the container* gets the tunnel. No delete and re-create, so no race;
//! * on the **destination** an identity entry appears (nothing is translated there: packets come
//!   through the tunnel already carrying the container's address) whose field of the direction
//!   that leads *to the peer* gets the tunnel. Only a peer whose address is the destination's own is
//!   translated ([`crate::net::flows::placeholder`]);
//! * where the destination **has an entry already**, because the flow entered through it or passed
//!   it before, the container has come (back) to it: the field to the container is cleared and the
//!   one to the peer is left alone. The path is then no longer than before;
//! * a source whose entry led to the peer through the *same* tunnel is no longer on the path: its
//!   entry is deleted.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use conntrack::{Flow, Protocol, Status, Tcp, TcpState, Tuple};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::placeholder;
use crate::net::mark::{Direction, Index, Mark};

/// Least time an entry gets at the destination, so that it outlives the outage.
const LEAST_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time an entry gets there: the kernel's default for established TCP connections.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(5 * 24 * 3600);

/// A flow as the container sees it: what the source tells the destination of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedFlow {
    /// Packets of the direction that opened the flow, with the container's own address.
    pub original: Tuple,
    /// Whether the container opened it.
    pub outgoing: bool,
    /// Time left at the source, in seconds.
    pub timeout_s: u64,
    /// Whether a reply was seen.
    pub answered: bool,
    /// TCP tracker's state.
    pub tcp: Option<Tcp>,
}

impl MovedFlow {
    /// The container's address.
    pub fn container(&self) -> IpAddr {
        if self.outgoing {
            self.original.source.ip()
        } else {
            self.original.destination.ip()
        }
    }

    /// Whether the container with these addresses can have this flow: what another host says of one may be
    /// of any connection.
    pub fn can_be_of(&self, addresses: &[IpAddr]) -> bool {
        let (container, peer) = (self.container(), self.peer());
        let fits = match self.original.protocol {
            Protocol::Icmp { .. } => container.is_ipv4(),
            Protocol::Icmpv6 { .. } => container.is_ipv6(),
            _ => true,
        };
        addresses.contains(&container)
            && container.is_ipv4() == peer.is_ipv4()
            && fits
            && moves(self.original.protocol)
            && (self.tcp.is_none() || self.original.protocol == Protocol::Tcp)
    }

    /// The address that the container talks to.
    pub fn peer(&self) -> IpAddr {
        self.at_container().destination.ip()
    }

    /// The tuple of the packets that the container sends, which no host translates: every entry of this
    /// flow, on whichever host, contains it.
    pub fn at_container(&self) -> Tuple {
        if self.outgoing {
            self.original
        } else {
            self.original.inverse()
        }
    }

    /// The direction whose packets go to the container.
    pub fn to_container(&self) -> Direction {
        if self.outgoing {
            Direction::Reply
        } else {
            Direction::Original
        }
    }

    /// The direction whose packets go to the peer.
    pub fn to_peer(&self) -> Direction {
        if self.outgoing {
            Direction::Original
        } else {
            Direction::Reply
        }
    }
}

/// The peers of `flows` with addresses in these networks.
pub fn peers_in<'a>(
    flows: impl IntoIterator<Item = &'a MovedFlow>,
    networks: &[IpNet],
) -> HashSet<IpAddr> {
    let near = |peer: &IpAddr| networks.iter().any(|network| network.contains(peer));
    flows
        .into_iter()
        .map(MovedFlow::peer)
        .filter(near)
        .collect()
}

/// How many flows of each kind moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCount {
    /// TCP connections.
    pub tcp: usize,
    /// UDP flows.
    pub udp: usize,
}

impl FlowCount {
    /// Counts `flows`.
    pub fn of<'a>(flows: impl IntoIterator<Item = &'a MovedFlow>) -> Self {
        let mut count = FlowCount::default();
        for flow in flows {
            match flow.original.protocol {
                Protocol::Tcp => count.tcp += 1,
                Protocol::Udp => count.udp += 1,
                _ => {}
            }
        }
        count
    }
}

/// Whether flows of this protocol move: TCP, UDP, and echo requests with their replies. Errors of ICMP
/// have no entries of their own.
fn moves(protocol: Protocol) -> bool {
    matches!(
        protocol,
        Protocol::Tcp
            | Protocol::Udp
            | Protocol::Icmp { kind: 8, .. }
            | Protocol::Icmpv6 { kind: 128, .. }
    )
}

/// The flow as the container with one of `addresses` sees it, if it is one of its flows and worth
/// moving.
pub fn seen_by_container(flow: &Flow, addresses: &HashSet<IpAddr>) -> Option<MovedFlow> {
    if !moves(flow.original.protocol) {
        return None;
    }
    // A connection that is over on both sides needs no container any more.
    if matches!(
        flow.tcp.map(|t| t.state),
        Some(TcpState::TimeWait | TcpState::Close)
    ) {
        return None;
    }
    // The reply tuple is what the container's end sends or receives once translation is undone:
    // its inverse is the original direction with the container's own address in it.
    let (original, outgoing) = if addresses.contains(&flow.reply.source.ip()) {
        (flow.reply.inverse(), false)
    } else if addresses.contains(&flow.original.source.ip()) {
        (flow.original, true)
    } else {
        return None;
    };
    Some(MovedFlow {
        original,
        outgoing,
        timeout_s: flow.timeout.unwrap_or(LEAST_TIMEOUT).as_secs(),
        answered: flow.status.contains(Status::SEEN_REPLY),
        tcp: flow.tcp,
    })
}

/// For a connection that the tracker does not see, whose packets from the container have this tuple: the
/// flow, and the entry that it would have. Timeouts are the kernel's for established connections.
pub fn untracked(own: Tuple) -> (MovedFlow, Flow) {
    let timeout = match own.protocol {
        Protocol::Tcp => LONGEST_TIMEOUT,
        _ => Duration::from_secs(120),
    };
    let entry = Flow::identity(own, timeout);
    let moved = MovedFlow {
        original: own,
        outgoing: true,
        timeout_s: timeout.as_secs(),
        answered: true,
        tcp: entry.tcp,
    };
    (moved, entry)
}

/// What the source does with the entry of a flow that leaves through `tunnel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Give it this mark.
    Mark(Mark),
    /// Delete it: the peer is reached through the same tunnel, so this host is not on the path any more.
    Forget,
}

/// Decides what the source does with `entry`, which is behind `moved`.
pub fn depart(moved: &MovedFlow, entry: &Flow, tunnel: Index) -> Departure {
    let mark = Mark(entry.mark);
    // Where the flow is translated its packets have to pass, even if both ends are elsewhere.
    if mark.get(moved.to_peer()) == Some(tunnel) && !translates(entry) {
        Departure::Forget
    } else {
        Departure::Mark(mark.with(moved.to_container(), Some(tunnel)))
    }
}

/// The tunnel through which a flow that merely passes this host comes; `entry` is that of `moved`.
pub fn passes_from(moved: &MovedFlow, entry: &Flow) -> Option<Index> {
    let from = Mark(entry.mark).get(moved.to_peer())?;
    (!translates(entry)).then_some(from)
}

/// Whether `entry`, which is that of `moved`, is left of a flow whose container has moved on from here, to where the
/// flow came from: its packets have come to this host through a tunnel, and would end here.
pub fn has_returned(moved: &MovedFlow, entry: &Flow) -> bool {
    let ends_here = Mark(entry.mark).get(moved.to_container()).is_none();
    ends_here && passes_from(moved, entry).is_some()
}

/// Whether the kernel ends the flow when its packets for the container begin to leave by another interface.
/// It does so if a rule has masqueraded the flow (`nf_nat_oif_changed` in its nf_nat_core.c), which may be
/// so for any flow to the container whose source is translated.
pub fn is_masqueraded_inbound(moved: &MovedFlow, entry: &Flow) -> bool {
    entry.is_snat() && translates(entry) && !moved.outgoing
}

/// Whether this host translates the flow for the hosts at its ends. A placeholder does not count: neither
/// of them sees it.
fn translates(entry: &Flow) -> bool {
    let ends = [entry.original.source, entry.reply.source];
    let stands_in = ends.iter().any(|end| placeholder::is(end.ip()));
    (entry.is_snat() || entry.is_dnat()) && !stands_in
}

/// What the destination does for a flow that arrives through `tunnel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// Insert this entry.
    Insert(Box<Flow>),
    /// Give the entry that exists already this mark.
    Mark {
        /// The entry's original tuple.
        entry: Tuple,
        /// Its new mark.
        mark: Mark,
    },
}

/// Decides what the destination, which has the addresses `here`, does for `moved`. `present` is its entry
/// for it, if any, with the flow as the entry shows it: a tracker that saw a reply first takes the reply
/// direction for the original one.
pub fn arrive(
    moved: &MovedFlow,
    present: Option<&(MovedFlow, Flow)>,
    tunnel: Index,
    here: &HashSet<IpAddr>,
) -> Arrival {
    if let Some((seen, entry)) = present {
        return Arrival::Mark {
            entry: entry.original,
            mark: Mark(entry.mark).with(seen.to_container(), None),
        };
    }
    let timeout = Duration::from_secs(moved.timeout_s).clamp(LEAST_TIMEOUT, LONGEST_TIMEOUT);
    let mut flow = Flow::identity(moved.original, timeout);
    if here.contains(&moved.peer()) {
        let peer = match moved.outgoing {
            true => &mut flow.reply.source,
            false => &mut flow.original.source,
        };
        peer.set_ip(placeholder::of(moved.peer()));
    }
    if !moved.answered {
        // Without a reply the kernel may drop the entry under pressure, as at the source. It must
        // still be exempt from masquerading, for which SEEN_REPLY is enough.
        flow.status.remove(Status::ASSURED);
    }
    // The container runs on after this was listed, so a handshake may be complete by the time packets
    // come. An established entry lets the rest of a handshake pass, but not the other way round.
    let opening = |tcp: &Tcp| matches!(tcp.state, TcpState::SynSent | TcpState::SynRecv);
    flow.tcp = moved.tcp.filter(|tcp| !opening(tcp)).or(flow.tcp);
    flow.mark = Mark(0).with(moved.to_peer(), Some(tunnel)).0;
    Arrival::Insert(Box::new(flow))
}

/// The mark of a flow's entry at the host where it enters, when its packets for the container take
/// tunnel `instead` of `through`; `None` if they do not take `through`.
pub fn rerouted(moved: &MovedFlow, mark: Mark, through: Index, instead: Index) -> Option<Mark> {
    let direction = moved.to_container();
    (mark.get(direction) == Some(through)).then(|| mark.with(direction, Some(instead)))
}

/// The mark of a flow's entry at the container's host, when its packets for the peer take tunnel `instead` of
/// one of `through`; `None` if they take none of these.
pub fn returned_through(
    moved: &MovedFlow,
    mark: Mark,
    through: &[Index],
    instead: Index,
) -> Option<Mark> {
    let direction = moved.to_peer();
    let now = mark.get(direction)?;
    (now == instead || through.contains(&now)).then(|| mark.with(direction, Some(instead)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: &str = "10.88.0.5";

    fn tuple(source: &str, destination: &str) -> Tuple {
        Tuple::tcp(source.parse().unwrap(), destination.parse().unwrap())
    }

    fn index(n: u8) -> Index {
        n.try_into().unwrap()
    }

    fn addresses() -> HashSet<IpAddr> {
        [CONTAINER.parse().unwrap()].into()
    }

    /// The bridge's address, which all hosts have.
    fn here() -> HashSet<IpAddr> {
        ["10.88.0.1".parse().unwrap()].into()
    }

    fn entry(original: Tuple, reply: Tuple) -> Flow {
        Flow {
            reply,
            ..Flow::identity(original, Duration::from_secs(100))
        }
    }

    fn inbound() -> Flow {
        entry(
            tuple("192.0.2.9:4000", "192.0.2.1:8080"),
            tuple("10.88.0.5:80", "192.0.2.9:4000"),
        )
    }

    fn outbound() -> Flow {
        entry(
            tuple("10.88.0.5:5000", "192.0.2.9:443"),
            tuple("192.0.2.9:443", "192.0.2.1:5000"),
        )
    }

    #[test]
    fn the_container_sees_its_own_address() {
        let seen = seen_by_container(&inbound(), &addresses()).unwrap();
        assert_eq!(seen.original, tuple("192.0.2.9:4000", "10.88.0.5:80"));
        assert!(!seen.outgoing);

        let seen = seen_by_container(&outbound(), &addresses()).unwrap();
        assert_eq!(seen.original, tuple("10.88.0.5:5000", "192.0.2.9:443"));
        assert!(seen.outgoing);
    }

    #[test]
    fn others_flows_and_dead_ones_stay() {
        let other = entry(
            tuple("192.0.2.9:1", "192.0.2.1:22"),
            tuple("192.0.2.1:22", "192.0.2.9:1"),
        );
        assert_eq!(seen_by_container(&other, &addresses()), None);
        let mut over = inbound();
        over.tcp = Some(Tcp {
            state: TcpState::TimeWait,
            ..Tcp::established()
        });
        assert_eq!(seen_by_container(&over, &addresses()), None);
    }

    #[test]
    fn echoes_move_and_other_queries_stay() {
        let ping = |kind, source: &str, destination: &str, id| Tuple {
            protocol: Protocol::Icmp { kind, code: 0, id },
            ..tuple(&format!("{source}:0"), &format!("{destination}:0"))
        };
        // Outgoing, where the source's masquerade has chosen another id.
        let mut flow = entry(
            ping(8, CONTAINER, "192.0.2.9", 7),
            ping(0, "192.0.2.9", "192.0.2.1", 8),
        );
        let seen = seen_by_container(&flow, &addresses()).unwrap();
        assert!(seen.outgoing && seen.original == flow.original);
        assert_eq!(journey(flow.clone(), &[1, 2, 1]), [(1, flow.clone())]);

        let echo = ping(8, "192.0.2.9", CONTAINER, 7);
        flow = entry(echo, echo.inverse());
        let seen = seen_by_container(&flow, &addresses()).unwrap();
        assert!(!seen.outgoing && seen.original == echo);

        let timestamp = ping(13, CONTAINER, "192.0.2.9", 7);
        flow = entry(timestamp, timestamp.inverse());
        assert_eq!(seen_by_container(&flow, &addresses()), None);
    }

    /// The flows' entries on every host, as the container moves along `path`; the peer reaches
    /// the first host. Tunnel indexes: `10 * from + to` would not fit, so `from + 8 * to`.
    fn journey(flow: Flow, path: &[u8]) -> Vec<(u8, Flow)> {
        let name = |at: u8, towards: u8| index(at + 8 * towards);
        let mut entries = vec![(path[0], flow)];
        for hop in path.windows(2) {
            let (from, to) = (hop[0], hop[1]);
            let at = entries.iter().position(|(h, _)| *h == from).unwrap();
            let moved = seen_by_container(&entries[at].1, &addresses()).unwrap();
            let present = entries.iter().position(|(h, e)| {
                *h == to
                    && seen_by_container(e, &addresses())
                        .is_some_and(|p| p.original == moved.original)
            });
            let there = present.map(|p| (moved.clone(), entries[p].1.clone()));
            let arrival = arrive(&moved, there.as_ref(), name(to, from), &here());
            let departure = depart(&moved, &entries[at].1, name(from, to));
            match departure {
                Departure::Mark(mark) => entries[at].1.mark = mark.0,
                Departure::Forget => entries[at].0 = 0,
            }
            match arrival {
                Arrival::Insert(flow) => entries.push((to, *flow)),
                Arrival::Mark { mark, .. } => entries[present.unwrap()].1.mark = mark.0,
            }
            entries.retain(|(host, _)| *host != 0);
        }
        entries
    }

    fn marks(entries: &[(u8, Flow)], host: u8, direction: Direction) -> Option<Index> {
        let (_, flow) = entries.iter().find(|(h, _)| *h == host).unwrap();
        Mark(flow.mark).get(direction)
    }

    #[test]
    fn one_hop_each_way() {
        for (flow, to_container, to_peer) in [
            (inbound(), Direction::Original, Direction::Reply),
            (outbound(), Direction::Reply, Direction::Original),
        ] {
            let entries = journey(flow.clone(), &[1, 2]);
            assert_eq!(entries.len(), 2);
            // Source: towards the container through the tunnel, towards the peer as ever.
            assert_eq!(marks(&entries, 1, to_container), Some(index(1 + 8 * 2)));
            assert_eq!(marks(&entries, 1, to_peer), None);
            // Destination: the container is local, the peer through the tunnel.
            assert_eq!(marks(&entries, 2, to_container), None);
            assert_eq!(marks(&entries, 2, to_peer), Some(index(2 + 8)));
            let identity = &entries[1].1;
            assert!(!identity.is_dnat() && !identity.is_snat());
            // The translation at the source is untouched.
            assert_eq!(entries[0].1.reply, flow.reply);
        }
    }

    #[test]
    fn there_and_back_leaves_no_trace() {
        for flow in [inbound(), outbound()] {
            let entries = journey(flow.clone(), &[1, 2, 1]);
            assert_eq!(entries, [(1, flow)]);
        }
    }

    #[test]
    fn a_chain_passes_the_middle_and_returns() {
        for flow in [inbound(), outbound()] {
            let entries = journey(flow.clone(), &[1, 2, 3]);
            assert_eq!(entries.len(), 3);
            let moved = seen_by_container(&entries[1].1, &addresses()).unwrap();
            assert_eq!(
                marks(&entries, 2, moved.to_container()),
                Some(index(2 + 8 * 3))
            );
            assert_eq!(marks(&entries, 2, moved.to_peer()), Some(index(2 + 8)));

            let entries = journey(flow.clone(), &[1, 2, 3, 2, 1]);
            assert_eq!(entries, [(1, flow)]);
        }
    }

    #[test]
    fn a_shorter_path_leaves_the_middle_out() {
        for flow in [inbound(), outbound()] {
            let mut entries = journey(flow.clone(), &[1, 2, 3]);
            let moved = seen_by_container(&entries[1].1, &addresses()).unwrap();
            let returned: Vec<bool> = entries
                .iter()
                .map(|(_, entry)| has_returned(&moved, entry))
                .collect();
            // Only where it would end if the container were not there any more.
            assert_eq!(returned, [false, false, true]);
            let (through, instead) = (index(1 + 8 * 2), index(1 + 8 * 3));
            let entry = Mark(entries[0].1.mark);
            let turned = rerouted(&moved, entry, through, instead).unwrap();
            assert_eq!(turned.get(moved.to_container()), Some(instead));
            assert_eq!(turned.get(moved.to_peer()), None);
            assert_eq!(rerouted(&moved, turned, through, instead), None);
            let there = Mark(entries[2].1.mark);
            let returned =
                returned_through(&moved, there, &[index(3 + 8 * 2)], index(3 + 8)).unwrap();
            assert_eq!(returned.get(moved.to_peer()), Some(index(3 + 8)));
            assert_eq!(returned.get(moved.to_container()), None);

            // Home again, from where it is now.
            entries[0].1.mark = turned.0;
            entries[2].1.mark = returned.0;
            let entry = (moved.clone(), entries[0].1.clone());
            let home = arrive(&moved, Some(&entry), instead, &here());
            let Arrival::Mark { mark, .. } = home else {
                panic!("it enters here");
            };
            assert_eq!(mark, Mark(0));
            entries[2].1.mark = returned.0;
            let left = depart(&moved, &entries[2].1, index(3 + 8));
            assert_eq!(left, Departure::Forget);
        }
    }

    #[test]
    fn a_flow_that_enters_at_the_containers_host_stays_as_it_is() {
        let moved = seen_by_container(&inbound(), &addresses()).unwrap();
        assert_eq!(
            returned_through(&moved, Mark(0), &[index(2)], index(1)),
            None
        );
    }

    #[test]
    fn a_host_gets_no_flows_but_by_way_of_those_that_introduced_it() {
        let moved = seen_by_container(&inbound(), &addresses()).unwrap();
        let of_another = Mark(0).with(moved.to_peer(), Some(index(7)));
        assert_eq!(
            returned_through(&moved, of_another, &[index(2)], index(1)),
            None
        );
        assert_eq!(returned_through(&moved, of_another, &[], index(1)), None);
    }

    #[test]
    fn a_host_that_translates_stays_in_the_path() {
        // Two containers of one host, by way of a published port: both go to the same other host.
        let mut flow = entry(
            tuple("10.88.0.6:4000", "192.0.2.1:8080"),
            tuple("10.88.0.5:80", "10.88.0.1:4000"),
        );
        for container in [CONTAINER, "10.88.0.6"] {
            let addresses = [container.parse().unwrap()].into();
            let moved = seen_by_container(&flow, &addresses).unwrap();
            let Departure::Mark(mark) = depart(&moved, &flow, index(1)) else {
                panic!("it is translated here");
            };
            assert_eq!(passes_from(&moved, &flow), None);
            flow.mark = mark.0;
        }
        for direction in Direction::BOTH {
            assert_eq!(Mark(flow.mark).get(direction), Some(index(1)));
        }
    }

    #[test]
    fn a_peer_with_an_address_of_the_host_has_a_stand_in() {
        // A process of the source's, through localhost; and the container's, with the source.
        let inbound = entry(
            tuple("127.0.0.1:4000", "127.0.0.1:8080"),
            tuple("10.88.0.5:80", "10.88.0.1:4000"),
        );
        let outbound = tuple("10.88.0.5:5000", "10.88.0.1:443");
        let outbound = entry(outbound, outbound.inverse());
        for (flow, original, reply) in [
            (
                inbound,
                tuple("192.0.0.8:4000", "10.88.0.5:80"),
                tuple("10.88.0.5:80", "10.88.0.1:4000"),
            ),
            (
                outbound,
                tuple("10.88.0.5:5000", "10.88.0.1:443"),
                tuple("192.0.0.8:443", "10.88.0.5:5000"),
            ),
        ] {
            let entries = journey(flow.clone(), &[1, 2, 3]);
            for (_, entry) in &entries[1..] {
                assert_eq!((entry.original, entry.reply), (original, reply));
            }
            assert_eq!(journey(flow.clone(), &[1, 2, 3, 2, 1]), [(1, flow)]);
        }
    }

    #[test]
    fn an_entry_that_has_the_flow_the_other_way_round_is_its_entry() {
        let moved = seen_by_container(&inbound(), &addresses()).unwrap();
        let turned = moved.original.inverse();
        let mark = Mark(0).with(Direction::Reply, Some(index(1))).0;
        let flow = Flow {
            mark,
            ..entry(turned, moved.original)
        };
        let seen = seen_by_container(&flow, &addresses()).unwrap();
        assert_eq!(seen.at_container(), moved.at_container());
        let Arrival::Mark { entry, mark } = arrive(&moved, Some(&(seen, flow)), index(2), &here())
        else {
            panic!("it is there");
        };
        assert_eq!((entry, mark), (turned, Mark(0)));
    }

    #[test]
    fn foreign_mark_bits_survive() {
        let mut flow = inbound();
        flow.mark = 0xf000_2000;
        let entries = journey(flow, &[1, 2, 1]);
        assert_eq!(entries[0].1.mark, 0xf000_2000);
    }

    #[test]
    fn what_another_host_says_of_a_flow_must_fit_the_container() {
        let own = [CONTAINER.parse().unwrap()];
        for flow in [inbound(), outbound()] {
            let seen = seen_by_container(&flow, &addresses()).unwrap();
            assert!(seen.can_be_of(&own));
            assert!(!seen.can_be_of(&["10.88.0.6".parse().unwrap()]));
            let turned = MovedFlow {
                outgoing: !seen.outgoing,
                ..seen.clone()
            };
            assert!(!turned.can_be_of(&own));
            let mut mixed = seen.clone();
            let peer = match seen.outgoing {
                true => &mut mixed.original.destination,
                false => &mut mixed.original.source,
            };
            peer.set_ip("2001:db8::9".parse().unwrap());
            assert!(!mixed.can_be_of(&own));
            let mut other = seen;
            other.original.protocol = Protocol::Icmpv6 {
                kind: 128,
                code: 0,
                id: 1,
            };
            assert!(!other.can_be_of(&own));
        }
    }

    #[test]
    fn no_entry_lasts_longer_than_the_kernel_lets_one_last() {
        let mut moved = seen_by_container(&inbound(), &addresses()).unwrap();
        moved.timeout_s = u64::from(u32::MAX);
        let Arrival::Insert(entry) = arrive(&moved, None, index(1), &here()) else {
            panic!("nothing was there");
        };
        assert_eq!(entry.timeout, Some(LONGEST_TIMEOUT));
    }

    #[test]
    fn an_unanswered_flow_stays_on_probation() {
        let mut flow = outbound();
        flow.status = Status::CONFIRMED;
        let moved = seen_by_container(&flow, &addresses()).unwrap();
        let Arrival::Insert(entry) = arrive(&moved, None, index(1), &here()) else {
            panic!("nothing was there");
        };
        assert!(entry.status.contains(Status::SEEN_REPLY));
        assert!(!entry.status.contains(Status::ASSURED));
        assert!(entry.timeout.unwrap() >= LEAST_TIMEOUT);
    }
}
