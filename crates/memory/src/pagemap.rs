//! What /proc/PID/pagemap says of pages: which CRIU would dump, and which were written to.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::PAGE_BYTES;
use crate::process::Process;
use crate::ranges;

// linux/fs.h, since 6.7. The argument holds pointers as numbers.
const PAGEMAP_SCAN: libc::Ioctl = iowr(b'f', 16, size_of::<ScanArgument>()) as libc::Ioctl;
const PAGE_IS_WPALLOWED: u64 = 1 << 0;
const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
const PM_SCAN_WP_MATCHING: u64 = 1 << 0;

/// Regions that one call may answer: 48 KiB.
const MOST_REGIONS: usize = 2048;

/// `_IOWR` of asm-generic/ioctl.h.
pub(crate) const fn iowr(kind: u8, number: u8, size: usize) -> u64 {
    3 << 30 | (size as u64) << 16 | (kind as u64) << 8 | number as u64
}

#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// Which of the pages that have content are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of them.
    Present,
    /// Those that cannot be proven unchanged: all where writes are not followed, and those written to since they were last
    /// protected where they are. Needs [`can_scan`].
    Changed,
    /// Those that cannot be proven unchanged where writes are followed, which are protected at once. Needs [`can_scan`].
    ChangedAndProtect,
    /// All where writes are followed, which are protected at once. Needs [`can_scan`].
    PresentAndProtect,
    /// All where writes are not followed. Needs [`can_scan`].
    NotFollowed,
}

/// Whether the kernel has `PAGEMAP_SCAN` (6.7).
pub(crate) fn can_scan() -> bool {
    File::open("/proc/self/pagemap").is_ok_and(|pagemap| {
        // An empty range is no error.
        scan(
            &pagemap,
            0..0,
            Wanted::Present,
            &mut Vec::new(),
            &mut |_| {},
        )
        .is_ok()
    })
}

/// The pagemap of one process's memory. The process may replace that (execve(2)) and end: nothing is found in it then.
pub(crate) struct Pagemap {
    file: File,
    scans: bool,
    regions: Vec<Region>,
}

impl Pagemap {
    /// Nothing if the process has ended.
    pub(crate) fn open(process: &Process, scans: bool) -> io::Result<Option<Pagemap>> {
        match File::open(process.file("pagemap")) {
            Ok(file) if process.exists() => Ok(Some(Pagemap {
                file,
                scans,
                regions: Vec::new(),
            })),
            Ok(_) => Ok(None),
            Err(error) if ranges::is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Calls `found` for pages in `range` that CRIU would dump if it is private anonymous memory (`should_dump_page` in criu/mem.c:
    /// in memory or swapped out, and neither a file's nor the zero page), as far as they are `wanted`. Without `PAGEMAP_SCAN`,
    /// zero pages are among them.
    pub(crate) fn pages(
        &mut self,
        range: Range<u64>,
        wanted: Wanted,
        found: &mut dyn FnMut(Range<u64>),
    ) -> io::Result<()> {
        if self.scans {
            scan(&self.file, range, wanted, &mut self.regions, found)
        } else {
            read(&self.file, range, found)
        }
    }
}

fn scan(
    pagemap: &File,
    range: Range<u64>,
    wanted: Wanted,
    regions: &mut Vec<Region>,
    found: &mut dyn FnMut(Range<u64>),
) -> io::Result<()> {
    regions.resize(MOST_REGIONS, Region::default());
    // Inverted categories must be absent.
    let absent = PAGE_IS_FILE | PAGE_IS_PFNZERO;
    let (present, more_absent) = match wanted {
        Wanted::Present | Wanted::Changed => (0, 0),
        Wanted::ChangedAndProtect => (PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN, 0),
        Wanted::PresentAndProtect => (PAGE_IS_WPALLOWED, 0),
        Wanted::NotFollowed => (0, PAGE_IS_WPALLOWED),
    };
    let protect = matches!(
        wanted,
        Wanted::ChangedAndProtect | Wanted::PresentAndProtect
    );
    let mut joined = Joined::default();
    let mut start = range.start;
    while start < range.end {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            flags: if protect { PM_SCAN_WP_MATCHING } else { 0 },
            start,
            end: range.end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            category_inverted: absent | more_absent,
            category_mask: absent | more_absent | present,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN,
            ..ScanArgument::default()
        };
        // SAFETY: the argument and the regions live, and their sizes are told.
        let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &mut argument) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error());
        let count = match count {
            Ok(count) => count,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
            // The memory is gone with its process.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => break,
            Err(error) => return Err(error),
        };
        for region in &regions[..count] {
            let unchanged =
                region.categories & (PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN) == PAGE_IS_WPALLOWED;
            if wanted != Wanted::Changed || !unchanged {
                joined.push(region.start..region.end, found);
            }
        }
        // Where it stopped: the end, or because there was no room for more regions.
        if argument.walk_end <= start {
            break;
        }
        start = argument.walk_end;
    }
    joined.end(found);
    Ok(())
}

/// Without `PAGEMAP_SCAN`: bits of proc_pid_pagemap(5).
fn read(pagemap: &File, range: Range<u64>, found: &mut dyn FnMut(Range<u64>)) -> io::Result<()> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    const GUARD: u64 = 1 << 58;
    let page = PAGE_BYTES as u64;
    let mut buffer = vec![0; 8 * 8192];
    let mut joined = Joined::default();
    let mut at = range.start;
    while at < range.end {
        let wanted = buffer.len().min(((range.end - at) / page * 8) as usize);
        let read = pagemap.read_at(&mut buffer[..wanted], at / page * 8)?;
        if read < 8 {
            break;
        }
        for entry in buffer[..read].chunks_exact(8) {
            let entry = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
            if entry & (PRESENT | SWAPPED) != 0 && entry & (FILE | GUARD) == 0 {
                joined.push(at..at + page, found);
            }
            at += page;
        }
    }
    joined.end(found);
    Ok(())
}

/// Ranges that follow each other become one.
#[derive(Default)]
struct Joined(Range<u64>);

impl Joined {
    fn push(&mut self, range: Range<u64>, found: &mut dyn FnMut(Range<u64>)) {
        if self.0.end == range.start && !self.0.is_empty() {
            self.0.end = range.end;
        } else {
            self.end(found);
            self.0 = range;
        }
    }

    fn end(&mut self, found: &mut dyn FnMut(Range<u64>)) {
        let range = std::mem::take(&mut self.0);
        if !range.is_empty() {
            found(range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_find_what_was_written() {
        let pages = 64;
        let bytes = pages * PAGE_BYTES;
        // SAFETY: a new mapping, used within its bounds.
        let memory = unsafe {
            let memory = libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(memory, libc::MAP_FAILED);
            std::slice::from_raw_parts_mut(memory.cast::<u8>(), bytes)
        };
        for page in [3, 4, 5, 60] {
            memory[page * PAGE_BYTES] = 1;
        }
        let start = memory.as_ptr() as u64;
        let at = |page: u64| start + page * PAGE_BYTES as u64;
        let range = start..start + bytes as u64;
        let expected = [at(3)..at(6), at(60)..at(61)];
        let process = Process::open(std::process::id() as i32, 1).unwrap();
        for scans in [false, true] {
            if scans && !can_scan() {
                eprintln!("skipped: this kernel has no PAGEMAP_SCAN");
                continue;
            }
            let mut pagemap = Pagemap::open(&process, scans).unwrap().unwrap();
            let mut found = Vec::new();
            pagemap
                .pages(range.clone(), Wanted::Present, &mut |run| found.push(run))
                .unwrap();
            assert_eq!(found, expected, "scans: {scans}");
        }
        // A page that was only read is the zero page, which CRIU does not dump.
        assert_eq!(std::hint::black_box(memory[10 * PAGE_BYTES]), 0);
        if can_scan() {
            let mut pagemap = Pagemap::open(&process, true).unwrap().unwrap();
            let mut found = Vec::new();
            pagemap
                .pages(range, Wanted::Present, &mut |run| found.push(run))
                .unwrap();
            assert_eq!(found, expected);
        }
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(memory.as_mut_ptr().cast(), bytes) };
    }
}
