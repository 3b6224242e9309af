//! What the blocks of a large file held when they were sent. A later pass sends those that hold something
//! else, of a file that has changed and of one whose changes leave no trace.

use blake3::{Hash, Hasher};

use super::contents::Piece;

/// Files below this are sent whole.
pub(super) const LARGE: u64 = 1 << 20;

const SMALLEST: u64 = 64 << 10;

/// Most blocks of a file, about: what is remembered of one takes 2 MiB at most. Blocks of larger files are
/// larger.
const MOST: u64 = 1 << 16;

static ZEROS: [u8; 4096] = [0; 4096];

/// The blocks of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Bytes of each.
    length: u64,
    /// Of each up to its last byte that is not zero; `None`: all of it is. A hole is zeros.
    hashes: Vec<Option<Hash>>,
}

impl Blocks {
    /// Of a file of this `size`, with nothing but zeros as yet.
    pub(super) fn new(size: u64) -> Self {
        let length = size.div_ceil(MOST).next_power_of_two().max(SMALLEST);
        Blocks::with_length(size, length)
    }

    fn with_length(size: u64, length: u64) -> Self {
        Blocks {
            length,
            hashes: vec![None; size.div_ceil(length) as usize],
        }
    }

    /// The same of a file that has this `size` now. `None` if it has outgrown them.
    pub(super) fn resized(&self, size: u64) -> Option<Self> {
        let fits = size.div_ceil(self.length) <= 2 * MOST;
        fits.then(|| Blocks::with_length(size, self.length))
    }

    /// The parts of a file of this `size` that hold something else `now` than is known here.
    pub(super) fn changed(&self, now: &Blocks, size: u64) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        for (number, hash) in now.hashes.iter().enumerate() {
            if *hash == self.hashes.get(number).copied().flatten() {
                continue;
            }
            let offset = number as u64 * now.length;
            let length = now.length.min(size - offset);
            match pieces.last_mut() {
                Some(last) if last.offset + last.length == offset => last.length += length,
                _ => pieces.push(Piece { offset, length }),
            }
        }
        pieces
    }
}

/// Takes down blocks as they are read, from front to back.
pub(super) struct Recorder {
    blocks: Blocks,
    /// The block that is being read, and how far.
    open: Option<(usize, u64, Hasher)>,
}

impl Recorder {
    /// Into `blocks`.
    pub(super) fn new(blocks: Blocks) -> Self {
        Recorder { blocks, open: None }
    }

    /// The file holds `bytes` at `offset`, which lies behind everything before; between the two are zeros.
    pub(super) fn add(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let number = (offset / self.blocks.length) as usize;
            let within = offset % self.blocks.length;
            let left = (self.blocks.length - within).min(bytes.len() as u64);
            let (these, rest) = bytes.split_at(left as usize);
            self.add_to(number, within, without_zeros(these));
            (offset, bytes) = (offset + left, rest);
        }
    }

    fn add_to(&mut self, number: usize, within: u64, bytes: &[u8]) {
        if self.open.as_ref().is_some_and(|(open, ..)| *open != number) {
            self.close();
        }
        if bytes.is_empty() {
            return;
        }
        let (_, end, hasher) = self.open.get_or_insert_with(|| (number, 0, Hasher::new()));
        let mut zeros = within - *end;
        while zeros > 0 {
            let some = zeros.min(ZEROS.len() as u64);
            hasher.update(&ZEROS[..some as usize]);
            zeros -= some;
        }
        hasher.update(bytes);
        *end = within + bytes.len() as u64;
    }

    fn close(&mut self) {
        if let Some((number, _, hasher)) = self.open.take()
            && let Some(hash) = self.blocks.hashes.get_mut(number)
        {
            *hash = Some(hasher.finalize());
        }
    }

    /// What was taken down.
    pub(super) fn finish(mut self) -> Blocks {
        self.close();
        self.blocks
    }
}

/// `bytes` up to the last one that is not zero.
fn without_zeros(mut bytes: &[u8]) -> &[u8] {
    // Compared in chunks, which is much faster than one by one.
    while let Some((rest, chunk)) = bytes.split_last_chunk::<4096>()
        && *chunk == ZEROS
    {
        bytes = rest;
    }
    let last = bytes.iter().rposition(|byte| *byte != 0);
    &bytes[..last.map_or(0, |last| last + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 10 * SMALLEST + 100;

    fn recorded(parts: &[(u64, &[u8])]) -> Blocks {
        let mut recorder = Recorder::new(Blocks::new(SIZE));
        for (offset, bytes) in parts {
            recorder.add(*offset, bytes);
        }
        recorder.finish()
    }

    #[test]
    fn what_differs_is_found_by_block() {
        let zeros = vec![0; SIZE as usize];
        let mut other = zeros.clone();
        other[SMALLEST as usize] = 1;
        other[2 * SMALLEST as usize] = 1;
        other[SIZE as usize - 1] = 1;
        let (before, now) = (recorded(&[(0, &zeros)]), recorded(&[(0, &other)]));
        assert_eq!(before.changed(&before, SIZE), []);
        let piece = |offset, length| Piece { offset, length };
        let changed = [piece(SMALLEST, 2 * SMALLEST), piece(10 * SMALLEST, 100)];
        assert_eq!(before.changed(&now, SIZE), changed);
        // However it was read.
        let mut recorder = Recorder::new(Blocks::new(SIZE));
        for (number, part) in other.chunks(1000).enumerate() {
            recorder.add(number as u64 * 1000, part);
        }
        assert_eq!(recorder.finish(), now);
    }

    #[test]
    fn zeros_are_holes_wherever_they_are() {
        let mut bytes = vec![0; SIZE as usize];
        for at in [5, 3 * SMALLEST as usize, 5 * SMALLEST as usize - 1] {
            bytes[at] = 7;
        }
        let whole = recorded(&[(0, &bytes)]);
        for step in [1, 4096, 5000, 70_000, SMALLEST as usize] {
            let mut recorder = Recorder::new(Blocks::new(SIZE));
            for (number, part) in bytes.chunks(step).enumerate() {
                if part.iter().any(|byte| *byte != 0) {
                    recorder.add((number * step) as u64, part);
                }
            }
            assert_eq!(recorder.finish(), whole, "{step}");
        }
        assert_eq!(whole.hashes.iter().flatten().count(), 3);
    }

    #[test]
    fn a_hole_is_not_its_neighbour() {
        let one = recorded(&[(SMALLEST + 5, b"x")]);
        let moved = recorded(&[(SMALLEST + 6, b"x")]);
        assert_eq!(one.changed(&moved, SIZE).len(), 1);
        // What has become a hole is to be overwritten.
        let gone = recorded(&[]);
        assert_eq!(one.changed(&gone, SIZE)[0].offset, SMALLEST);
        assert_eq!(gone.changed(&one, SIZE)[0].offset, SMALLEST);
    }

    #[test]
    fn a_file_may_grow_and_shrink() {
        let before = recorded(&[(0, &[1; 2 * SMALLEST as usize])]);
        let mut grown = Recorder::new(before.resized(2 * SIZE).unwrap());
        grown.add(0, &[1; 2 * SMALLEST as usize]);
        grown.add(SIZE + SMALLEST, &[1]);
        let changed = before.changed(&grown.finish(), 2 * SIZE);
        assert_eq!(changed.len(), 1);
        assert!(changed[0].offset > SIZE);
        let shrunk = Recorder::new(before.resized(0).unwrap()).finish();
        assert_eq!(before.changed(&shrunk, 0), []);
        assert_eq!(before.resized(1 << 50), None);
        assert!(Blocks::new(1 << 50).hashes.len() as u64 <= MOST);
    }
}
