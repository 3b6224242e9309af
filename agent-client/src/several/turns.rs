//! Which container is next.

use std::collections::BTreeSet;

/// The containers that wait for their turn, and those that are on their way. Two of one network are never on their way
/// at the same time: datagrams that they send each other could be lost.
#[derive(Debug)]
pub(super) struct Turns {
    /// Numbers of containers, in the order in which they go if they can, with their networks.
    waiting: Vec<(usize, BTreeSet<String>)>,
    under_way: Vec<(usize, BTreeSet<String>)>,
    parallel: usize,
}

impl Turns {
    /// At most `parallel` are on their way at a time.
    pub(super) fn new(waiting: Vec<(usize, BTreeSet<String>)>, parallel: usize) -> Self {
        Turns {
            waiting,
            under_way: Vec::new(),
            parallel,
        }
    }

    /// The next one, which begins now; `None` if none can.
    pub(super) fn begin(&mut self) -> Option<usize> {
        if self.under_way.len() >= self.parallel {
            return None;
        }
        let meets = |networks: &BTreeSet<String>| {
            let mut others = self.under_way.iter();
            others.any(|(_, others)| !others.is_disjoint(networks))
        };
        let next = self
            .waiting
            .iter()
            .position(|(_, networks)| !meets(networks))?;
        let next = self.waiting.remove(next);
        let number = next.0;
        self.under_way.push(next);
        Some(number)
    }

    /// This one is over.
    pub(super) fn end(&mut self, number: usize) {
        self.under_way.retain(|(other, _)| *other != number);
    }

    /// None begins any more.
    pub(super) fn stop(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(networks: &[&[&str]]) -> Vec<(usize, BTreeSet<String>)> {
        let set = |names: &&[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        networks.iter().map(set).enumerate().collect()
    }

    #[test]
    fn those_of_one_network_take_turns() {
        let mut turns = Turns::new(waiting(&[&["one"], &["one", "two"], &["three"], &[]]), 3);
        assert_eq!(turns.begin(), Some(0));
        assert_eq!(turns.begin(), Some(2));
        assert_eq!(turns.begin(), Some(3));
        assert_eq!(turns.begin(), None);
        turns.end(2);
        // The place is free, but the one that waits meets the first one.
        assert_eq!(turns.begin(), None);
        turns.end(0);
        assert_eq!(turns.begin(), Some(1));
        turns.end(1);
        turns.end(3);
        assert_eq!(turns.begin(), None);
    }

    #[test]
    fn only_so_many_at_a_time_and_none_after_the_end() {
        let mut turns = Turns::new(waiting(&[&[], &[], &[]]), 1);
        assert_eq!(turns.begin(), Some(0));
        assert_eq!(turns.begin(), None);
        turns.end(0);
        assert_eq!(turns.begin(), Some(1));
        turns.stop();
        turns.end(1);
        assert_eq!(turns.begin(), None);
    }
}
