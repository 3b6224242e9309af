//! The connections that are open, and which of them must go so that others get through.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use trust::Fingerprint;

/// Most connections of strangers at once: of those that have not proven yet whose they are, or that may
/// only pair.
const MOST_STRANGERS: usize = 256;

/// Most of them from one address.
const MOST_FROM_ONE: usize = 64;

/// Most connections of one peer at once. A command opens one, and one more for each question.
const MOST_OF_ONE_PEER: usize = 32;

/// Connections of strangers. There is always room for one more: the oldest one goes, from whichever
/// address has the most. Whoever can prove who he is does so in a moment, and those who say nothing
/// get old.
#[derive(Clone, Default)]
pub(crate) struct Strangers(Arc<Mutex<Open<IpAddr>>>);

/// Connections of peers, by their keys.
#[derive(Clone, Default)]
pub(crate) struct Guests(Arc<Mutex<Open<Fingerprint>>>);

/// Open connections, the oldest first.
struct Open<K> {
    next: u64,
    connections: Vec<Connection<K>>,
}

struct Connection<K> {
    number: u64,
    of: K,
    end: CancellationToken,
}

/// A connection's place; given up when dropped.
pub(crate) struct Place<K: Clone + PartialEq> {
    number: u64,
    open: Arc<Mutex<Open<K>>>,
    end: CancellationToken,
}

impl<K> Default for Open<K> {
    fn default() -> Self {
        Open {
            next: 0,
            connections: Vec::new(),
        }
    }
}

impl<K: Clone + PartialEq> Place<K> {
    fn take(open: &Arc<Mutex<Open<K>>>, of: K, stop: &CancellationToken) -> Self {
        let mut all = open.lock().expect("no panic while locked");
        all.next += 1;
        let (number, end) = (all.next, stop.child_token());
        all.connections.push(Connection {
            number,
            of,
            end: end.clone(),
        });
        Place {
            number,
            open: open.clone(),
            end,
        }
    }

    /// Cancelled when the connection must go.
    pub(crate) fn end(&self) -> &CancellationToken {
        &self.end
    }
}

impl<K: Clone + PartialEq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut open = self.open.lock().expect("no panic while locked");
        open.connections.retain(|c| c.number != self.number);
    }
}

impl Strangers {
    /// A place for a connection from `address`, which ends with `stop` at the latest.
    pub(crate) fn admit(&self, address: IpAddr, stop: &CancellationToken) -> Place<IpAddr> {
        let of = origin(address);
        {
            let mut open = self.0.lock().expect("no panic while locked");
            let mut counts: HashMap<IpAddr, usize> = HashMap::new();
            for connection in &open.connections {
                *counts.entry(connection.of).or_default() += 1;
            }
            let from_there = counts.get(&of).copied().unwrap_or_default();
            let whose = if from_there >= MOST_FROM_ONE {
                Some(of)
            } else if open.connections.len() >= MOST_STRANGERS {
                counts
                    .into_iter()
                    .max_by_key(|(_, count)| *count)
                    .map(|(of, _)| of)
            } else {
                None
            };
            let oldest = open.connections.iter().position(|c| Some(c.of) == whose);
            if let Some(oldest) = oldest {
                open.connections.remove(oldest).end.cancel();
            }
        }
        Place::take(&self.0, of, stop)
    }
}

impl Guests {
    /// A place for a connection of `peer`, which ends with `stop` at the latest; none if it has too many.
    pub(crate) fn admit(
        &self,
        peer: Fingerprint,
        stop: &CancellationToken,
    ) -> Option<Place<Fingerprint>> {
        let open = self.0.lock().expect("no panic while locked");
        let of_peer = open.connections.iter().filter(|c| c.of == peer);
        if of_peer.count() >= MOST_OF_ONE_PEER {
            return None;
        }
        drop(open);
        Some(Place::take(&self.0, peer, stop))
    }

    /// Ends the connections of those that are not among these peers.
    pub(crate) fn keep(&self, peers: &[Fingerprint]) {
        let mut open = self.0.lock().expect("no panic while locked");
        open.connections.retain(|connection| {
            let stays = peers.contains(&connection.of);
            if !stays {
                connection.end.cancel();
            }
            stays
        });
    }
}

/// What counts as one address: with IPv6 a whole network is at the disposal of whoever is in it.
fn origin(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(network).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_drives_out_itself() {
        let (strangers, stop) = (Strangers::default(), CancellationToken::new());
        let other = strangers.admit(address("192.0.2.1"), &stop);
        let places: Vec<_> = (0..MOST_FROM_ONE + 2)
            .map(|last| strangers.admit(address(&format!("2001:db8::{last:x}")), &stop))
            .collect();
        assert!(!other.end().is_cancelled());
        let ended = places.iter().map(|place| place.end().is_cancelled());
        assert_eq!(ended.filter(|ended| *ended).count(), 2);
        assert!(places[0].end().is_cancelled() && places[1].end().is_cancelled());
    }

    #[test]
    fn many_addresses_drive_out_the_oldest_of_the_busiest() {
        let (strangers, stop) = (Strangers::default(), CancellationToken::new());
        let busy: Vec<_> = (0..2)
            .map(|_| strangers.admit(address("192.0.2.1"), &stop))
            .collect();
        let others: Vec<_> = (2..MOST_STRANGERS)
            .map(|n| strangers.admit(IpAddr::from([10, 0, (n / 256) as u8, n as u8]), &stop))
            .collect();
        let last = strangers.admit(address("192.0.2.2"), &stop);
        assert!(busy[0].end().is_cancelled() && !busy[1].end().is_cancelled());
        assert!(others.iter().all(|place| !place.end().is_cancelled()));
        assert!(!last.end().is_cancelled());
        drop((busy, others));
        assert_eq!(strangers.0.lock().unwrap().connections.len(), 1);
        stop.cancel();
        assert!(last.end().is_cancelled());
    }

    #[test]
    fn a_peer_that_is_removed_loses_its_connections() {
        let (guests, stop) = (Guests::default(), CancellationToken::new());
        let key = |digits: &str| digits.repeat(32).parse().unwrap();
        let stays = guests.admit(key("aa"), &stop).unwrap();
        let goes = guests.admit(key("bb"), &stop).unwrap();
        guests.keep(&[key("aa")]);
        assert!(goes.end().is_cancelled() && !stays.end().is_cancelled());
        let more: Vec<_> = (0..40).map(|_| guests.admit(key("aa"), &stop)).collect();
        assert_eq!(more.iter().flatten().count(), MOST_OF_ONE_PEER - 1);
    }
}
