//! Pages that were read become runs.

use std::io;
use std::ops::Range;

use super::pass::{Pass, Sink};
use crate::PAGE_BYTES;
use crate::stream::Run;

/// A page of them.
pub(super) static ZEROES: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

pub(super) fn pages(range: &Range<u64>) -> u64 {
    (range.end - range.start) / PAGE_BYTES as u64
}

/// Sends pages of process `inside` that follow each other: at most [`MOST_PAGES`](crate::stream::MOST_PAGES). Those that
/// are zero go without content.
pub(super) fn send(inside: u32, address: u64, content: &[u8], sink: &Sink<'_>) -> io::Result<Pass> {
    let mut pass = Pass::default();
    let count = content.len() / PAGE_BYTES;
    let is_zero = |page: usize| content[page * PAGE_BYTES..(page + 1) * PAGE_BYTES] == ZEROES;
    let mut begin = 0;
    while begin < count {
        let zero = is_zero(begin);
        let end = (begin + 1..count)
            .find(|page| is_zero(*page) != zero)
            .unwrap_or(count);
        sink(&Run {
            process: inside,
            address: address + (begin * PAGE_BYTES) as u64,
            pages: (end - begin) as u32,
            content: (!zero).then_some(&content[begin * PAGE_BYTES..end * PAGE_BYTES]),
        })?;
        pass.sent_pages += (end - begin) as u64;
        if zero {
            pass.zero_pages += (end - begin) as u64;
        }
        begin = end;
    }
    Ok(pass)
}
