//! Compares each page with what the other side has of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pass::{Kind, Pass, PassError, Sink, State, TrackError, Tracker};
use super::sending::{self, ZEROES};
use crate::PAGE_BYTES;
use crate::pagemap::{Pagemap, Wanted};
use crate::process::Process;
use crate::ranges::LazyRange;
use crate::reader::Reader;
use crate::stream::MOST_PAGES;

/// The first half of a page's BLAKE3 hash. Nobody but the container can choose its memory, and it harms but itself.
type Hash = [u8; 16];

/// Nothing was sent of a page.
const UNSENT: Hash = [0; 16];
/// A page that is all zero is known without being hashed.
const OF_ZEROES: Hash = [1; 16];

/// Pages that are looked up, read and compared together: 2 MiB.
const CHUNK_PAGES: usize = 512;
const CHUNK_BYTES: u64 = (CHUNK_PAGES * PAGE_BYTES) as u64;

type Chunk = Box<[Hash; CHUNK_PAGES]>;

/// Hashes of what the other side has, by address: 16 bytes for each page of 4096.
pub(super) struct Hashes {
    sent: BTreeMap<u64, Chunk>,
    scans: bool,
}

/// A part of the work that one thread does.
struct Job {
    base: u64,
    hashes: Chunk,
    pages: Vec<Range<u64>>,
}

impl Hashes {
    pub(super) fn new(scans: bool) -> Hashes {
        Hashes {
            sent: BTreeMap::new(),
            scans,
        }
    }

    /// The pages that have content, in chunks with what is known of them.
    fn jobs(&mut self, process: &Process, ranges: &[LazyRange]) -> std::io::Result<Vec<Job>> {
        let mut jobs: Vec<Job> = Vec::new();
        let Some(mut pagemap) = Pagemap::open(process, self.scans)? else {
            return Ok(jobs);
        };
        for range in ranges {
            pagemap.pages(range.clone(), Wanted::Present, &mut |found| {
                let mut at = found.start;
                while at < found.end {
                    let base = at - at % CHUNK_BYTES;
                    let end = found.end.min(base + CHUNK_BYTES);
                    if jobs.last().is_none_or(|job| job.base != base) {
                        let known = self.sent.remove(&base);
                        jobs.push(Job {
                            base,
                            hashes: known.unwrap_or_else(|| Box::new([UNSENT; CHUNK_PAGES])),
                            pages: Vec::new(),
                        });
                    }
                    jobs.last_mut().expect("just added").pages.push(at..end);
                    at = end;
                }
            })?;
        }
        Ok(jobs)
    }
}

impl Tracker for Hashes {
    fn kind(&self) -> Kind {
        Kind::Hashes
    }

    fn pass(
        &mut self,
        process: &Process,
        ranges: &[LazyRange],
        state: State,
        sink: &Sink<'_>,
    ) -> Result<Pass, TrackError> {
        let read = |source| PassError::Read {
            pid: process.pid,
            source,
        };
        let jobs = self.jobs(process, ranges).map_err(read)?;
        let threads = match state {
            // The container needs the processors too.
            State::Running => 1,
            State::Frozen => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let failed = AtomicBool::new(false);
        let (waiting, done) = (Mutex::new(jobs), Mutex::new(Vec::new()));
        let work = || -> Result<Pass, PassError> {
            let mut total = Pass::default();
            let mut worker = Worker {
                reader: Reader::new(process),
                inside: process.inside,
                buffer: vec![0; MOST_PAGES as usize * PAGE_BYTES],
                sink,
            };
            while !failed.load(Ordering::Relaxed) {
                let Some(mut job) = waiting.lock().expect("no panic").pop() else {
                    break;
                };
                let pass = worker.work(&mut job).map_err(|error| match error {
                    WorkError::Read(source) => read(source),
                    WorkError::Send(source) => PassError::Send(source),
                });
                total += pass.inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                done.lock().expect("no panic").push(job);
            }
            Ok(total)
        };
        let passes: Vec<Result<Pass, PassError>> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = others.into_iter().map(|t| t.join().expect("no panic"));
            std::iter::once(own).chain(others).collect()
        });
        let done = done.into_inner().expect("no panic");
        self.sent
            .extend(done.into_iter().map(|job| (job.base, job.hashes)));
        let mut total = Pass::default();
        for pass in passes {
            total += pass?;
        }
        Ok(total)
    }
}

enum WorkError {
    Read(std::io::Error),
    Send(std::io::Error),
}

struct Worker<'a> {
    reader: Reader<'a>,
    inside: u32,
    buffer: Vec<u8>,
    sink: &'a Sink<'a>,
}

impl Worker<'_> {
    fn work(&mut self, job: &mut Job) -> Result<Pass, WorkError> {
        let mut pass = Pass::default();
        for range in std::mem::take(&mut job.pages) {
            pass.examined_pages += sending::pages(&range);
            let mut at = range.start;
            while at < range.end {
                let wanted = ((range.end - at) as usize).min(self.buffer.len());
                let buffer = &mut self.buffer[..wanted];
                let read = self.reader.read(at, buffer).map_err(WorkError::Read)?;
                let first = ((at - job.base) / PAGE_BYTES as u64) as usize;
                let known = &mut job.hashes[first..first + read / PAGE_BYTES];
                let sent = self.compare(at, read, known).map_err(WorkError::Send)?;
                pass += sent;
                at += read as u64;
                if read < wanted {
                    pass.unread_pages += 1;
                    at += PAGE_BYTES as u64;
                }
            }
        }
        Ok(pass)
    }

    /// Sends what differs from what is known of `read` bytes in the buffer.
    fn compare(&self, address: u64, read: usize, known: &mut [Hash]) -> std::io::Result<Pass> {
        let pages = self.buffer[..read].chunks_exact(PAGE_BYTES);
        let hashes: Vec<Hash> = pages.map(hash).collect();
        let differs = |page: usize| hashes[page] != known[page];
        let mut pass = Pass::default();
        let mut page = 0;
        while page < hashes.len() {
            let end = (page..hashes.len())
                .find(|p| !differs(*p))
                .unwrap_or(hashes.len());
            if end > page {
                let address = address + (page * PAGE_BYTES) as u64;
                let content = &self.buffer[page * PAGE_BYTES..end * PAGE_BYTES];
                pass += sending::send(self.inside, address, content, self.sink)?;
            }
            page = end.max(page + 1);
        }
        // Only what was sent is known.
        known.copy_from_slice(&hashes);
        Ok(pass)
    }
}

fn hash(page: &[u8]) -> Hash {
    if page == ZEROES {
        return OF_ZEROES;
    }
    let hash = blake3::hash(page);
    hash.as_bytes()[..16].try_into().expect("16 of 32 bytes")
}
