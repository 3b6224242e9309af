//! A set of pages of one process.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges of addresses that neither overlap nor touch.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageSet {
    /// Where each begins, and where it ends.
    ranges: BTreeMap<u64, u64>,
    bytes: u64,
}

impl PageSet {
    /// Adds a range.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        // Newest first: what is before may reach into it or up to it.
        while let Some((&other, &other_end)) = self.ranges.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.ranges.remove(&other);
            self.bytes -= other_end - other;
            start = start.min(other);
            end = end.max(other_end);
        }
        self.ranges.insert(start, end);
        self.bytes += end - start;
    }

    /// Takes a range out.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&other, &other_end)) = self.ranges.range(..range.end).next_back() {
            if other_end <= range.start {
                break;
            }
            self.ranges.remove(&other);
            self.bytes -= other_end - other;
            for rest in [other..range.start, range.end..other_end] {
                if rest.start < rest.end {
                    self.bytes += rest.end - rest.start;
                    self.ranges.insert(rest.start, rest.end);
                }
            }
        }
    }

    /// The first address of the range that is not in the set, if not all are.
    pub(crate) fn first_missing(&self, range: &Range<u64>) -> Option<u64> {
        let before = self.ranges.range(..=range.start).next_back();
        let covered = before.map_or(range.start, |(_, &end)| end.max(range.start));
        (covered < range.end).then_some(covered)
    }

    /// Bytes that it takes in memory itself, about: entries of a tree that is not always full.
    pub(crate) fn own_bytes(&self) -> u64 {
        const PER_RANGE: u64 = 32;
        PER_RANGE * self.ranges.len() as u64
    }

    /// How many bytes its pages have.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(set: &PageSet) -> Vec<(u64, u64)> {
        let sum: u64 = set.ranges.iter().map(|(start, end)| end - start).sum();
        assert_eq!(sum, set.bytes());
        set.ranges
            .iter()
            .map(|(start, end)| (*start, *end))
            .collect()
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let mut set = PageSet::default();
        for range in [10..20, 30..40, 50..60, 5..5] {
            set.insert(range);
        }
        assert_eq!(ranges(&set), [(10, 20), (30, 40), (50, 60)]);
        set.insert(20..30);
        assert_eq!(ranges(&set), [(10, 40), (50, 60)]);
        set.insert(15..55);
        assert_eq!(ranges(&set), [(10, 60)]);
        set.insert(12..13);
        assert_eq!(ranges(&set), [(10, 60)]);
        set.insert(0..100);
        assert_eq!(ranges(&set), [(0, 100)]);
    }

    #[test]
    fn a_range_is_taken_out_of_several() {
        let mut set = PageSet::default();
        set.insert(0..100);
        set.remove(40..50);
        set.remove(60..60);
        assert_eq!(ranges(&set), [(0, 40), (50, 100)]);
        set.remove(30..60);
        assert_eq!(ranges(&set), [(0, 30), (60, 100)]);
        set.remove(200..300);
        set.remove(0..1000);
        assert_eq!(ranges(&set), []);
    }

    #[test]
    fn the_first_that_is_missing_is_found() {
        let mut set = PageSet::default();
        set.insert(10..20);
        set.insert(30..40);
        assert_eq!(set.first_missing(&(10..20)), None);
        assert_eq!(set.first_missing(&(12..15)), None);
        assert_eq!(set.first_missing(&(12..25)), Some(20));
        assert_eq!(set.first_missing(&(5..15)), Some(5));
        assert_eq!(set.first_missing(&(20..21)), Some(20));
        assert_eq!(set.first_missing(&(50..51)), Some(50));
    }
}
