//! Which pages a restored process still lacks.

use std::collections::BTreeMap;
use std::ops::Range;

/// Pages that follow each other, in the process and in the images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where they are in the process.
    pub(super) range: Range<u64>,
    /// Where the first of them was when it was dumped: the process may have moved it since.
    pub(super) dumped_at: u64,
}

impl Piece {
    /// Where these of its addresses were when they were dumped.
    pub(super) fn dumped(&self, part: &Range<u64>) -> Range<u64> {
        let start = self.dumped_at + (part.start - self.range.start);
        start..start + (part.end - part.start)
    }
}

/// The pages that one process lacks.
#[derive(Clone, Debug, Default)]
pub(super) struct Missing {
    /// By the start of each: its end, and where its start was when it was dumped.
    pieces: BTreeMap<u64, (u64, u64)>,
}

impl Missing {
    /// What the images leave out.
    pub(super) fn new(ranges: Vec<Range<u64>>) -> Self {
        let pieces = ranges.into_iter().map(|r| (r.start, (r.end, r.start)));
        Missing {
            pieces: pieces.collect(),
        }
    }

    /// The piece that this address is in.
    pub(super) fn at(&self, address: u64) -> Option<Piece> {
        let (&start, &(end, dumped_at)) = self.pieces.range(..=address).next_back()?;
        (address < end).then_some(Piece {
            range: start..end,
            dumped_at,
        })
    }

    /// The piece at the lowest address.
    pub(super) fn first(&self) -> Option<Piece> {
        self.at(*self.pieces.first_key_value()?.0)
    }

    /// Whether nothing is missing.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
    }

    /// These are there now, or are not wanted any more.
    pub(super) fn remove(&mut self, range: &Range<u64>) {
        self.cut_out(range);
    }

    /// The process has moved its memory from `from` to `to`.
    pub(super) fn remap(&mut self, from: u64, to: u64, bytes: u64) {
        let moved = self.cut_out(&(from..from.saturating_add(bytes)));
        for piece in moved {
            let start = to.wrapping_add(piece.range.start - from);
            let end = start.wrapping_add(piece.range.end - piece.range.start);
            self.pieces.insert(start, (end, piece.dumped_at));
        }
    }

    fn cut_out(&mut self, range: &Range<u64>) -> Vec<Piece> {
        let mut cut = Vec::new();
        while let Some((&start, &(end, dumped_at))) = self.pieces.range(..range.end).next_back() {
            if end <= range.start {
                break;
            }
            self.pieces.remove(&start);
            let piece = Piece {
                range: start..end,
                dumped_at,
            };
            let inside = start.max(range.start)..end.min(range.end);
            for rest in [start..inside.start, inside.end..end] {
                if rest.start < rest.end {
                    let at = piece.dumped(&rest).start;
                    self.pieces.insert(rest.start, (rest.end, at));
                }
            }
            cut.push(Piece {
                dumped_at: piece.dumped(&inside).start,
                range: inside,
            });
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(missing: &Missing) -> Vec<(u64, u64, u64)> {
        let pieces = missing.pieces.iter();
        pieces
            .map(|(start, (end, at))| (*start, *end, *at))
            .collect()
    }

    #[test]
    fn what_has_come_is_not_missing() {
        let mut missing = Missing::new(vec![10..20, 30..40]);
        missing.remove(&(15..35));
        assert_eq!(all(&missing), [(10, 15, 10), (35, 40, 35)]);
        missing.remove(&(12..13));
        assert_eq!(all(&missing), [(10, 12, 10), (13, 15, 13), (35, 40, 35)]);
        let piece = missing.at(14).unwrap();
        assert_eq!((piece.range.clone(), piece.dumped_at), (13..15, 13));
        assert_eq!(missing.at(15), None);
        assert_eq!(missing.first().unwrap().range, 10..12);
        missing.remove(&(0..100));
        assert!(missing.is_empty());
    }

    #[test]
    fn what_was_moved_is_remembered_where_it_was() {
        let mut missing = Missing::new(vec![10..20, 22..24]);
        missing.remap(15, 115, 8);
        assert_eq!(
            all(&missing),
            [(10, 15, 10), (23, 24, 23), (115, 120, 15), (122, 123, 22)]
        );
        // Moved again, and in part.
        missing.remap(117, 17, 2);
        assert_eq!(missing.at(18).unwrap().dumped(&(18..19)), 18..19);
        assert_eq!(missing.at(17).unwrap().dumped_at, 17);
        assert_eq!(missing.at(119).unwrap().dumped_at, 19);
        missing.remove(&(116..117));
        assert_eq!(missing.at(115).unwrap().range, 115..116);
    }
}
