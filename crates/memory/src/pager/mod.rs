//! Gives restored processes their memory.
//!
//! A restore with `lazy-pages` leaves private anonymous memory empty and registers it with a userfaultfd for
//! each process, which it sends to whoever listens at `lazy-pages.socket` in its work directory. That is
//! [`serve`]: from then on it answers each fault from a [`crate::store::Store`], which has all of the memory, with some
//! pages around it; when CRIU has finished it also fills the rest, and ends when nothing is missing.
//!
//! Faults are served from the first moment: CRIU's own code in the process (`restorer.c`) touches lazy pages
//! before it says that it has finished.
//!
//! Processes change their mappings and fork meanwhile. The kernel tells of it, and until that is read puts
//! no page into the process (`mmap_changing` in mm/userfaultfd.c); so no page lands where it does not belong.

mod guardian;
mod missing;
mod restorer;
mod uffd;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::PAGE_BYTES;
use crate::images::{self, ImagesError};
use crate::store::Contents;
use guardian::Guardian;
use missing::{Missing, Piece};
use restorer::{Restorer, Said};
use uffd::{Event, Put, Uffd};

/// Name of the socket in the restore's work directory (`LAZY_PAGES_SOCK_NAME` in criu/uffd.c).
pub const SOCKET: &str = "lazy-pages.socket";

const PAGE: u64 = PAGE_BYTES as u64;

/// What is put into a process along with a page that it waits for: the pages around it.
const AROUND_BYTES: u64 = 64 << 10;

/// Most that is put into a process at once while nobody waits: as long as this takes, a fault is not
/// served.
const FILL_BYTES: u64 = 512 << 10;

/// Pause before a page is tried again for which there was no memory, or which could not be put because the
/// process is changing its mappings.
const PAUSE_MS: u16 = 2;

/// The pager cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PagerError {
    /// A descriptor, or a file of the store.
    #[error("the pager: {0}")]
    Io(#[from] io::Error),
    /// The images cannot be read.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// CRIU went away before it had finished.
    #[error("CRIU has not finished the restore")]
    Unfinished,
    /// Nobody will begin a restore any more.
    #[error("the restore was given up before it began")]
    GivenUp,
}

impl From<nix::errno::Errno> for PagerError {
    fn from(error: nix::errno::Errno) -> Self {
        PagerError::Io(error.into())
    }
}

/// What a pager has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Processes that had memory missing, those that they forked included.
    pub processes: usize,
    /// Faults that were served.
    pub faults: u64,
    /// Bytes that were put into processes.
    pub bytes: u64,
    /// Bytes that had no place in their process any more.
    pub unmapped_bytes: u64,
    /// From the end of CRIU's restore until nothing was missing.
    pub filled_in: Duration,
}

/// Where a pager finds things.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The store's directory. What a process has got is given back there.
    pub store: &'a Path,
    /// CRIU's images. Read when CRIU connects.
    pub images: &'a Path,
}

/// Serves one restore, whose CRIU connects to `listener`, until nothing of its memory is missing.
///
/// `owner` is readable, or at its end, when no restore will begin any more; it is of no interest once CRIU has
/// connected. `stop` must stop all the restored processes, and return when they are gone: a second process calls
/// it if this one ends, however, while pages are missing, and keeps who waits for a page waiting until then.
///
/// This process may have one thread only.
///
/// # Errors
/// If the restore does not begin or end, and for faults of this host. If pages are missing then, `stop` is
/// called.
pub fn serve(
    listener: UnixListener,
    owner: BorrowedFd<'_>,
    sources: Sources<'_>,
    stop: &dyn Fn(),
) -> Result<Summary, PagerError> {
    let restorer = accept(&listener, owner)?;
    let close = [restorer.as_fd().as_raw_fd(), listener.as_raw_fd()];
    let guardian = Guardian::start(&close, stop)?;
    drop(listener);
    let mut pager = Pager {
        sources,
        restorer: Some(restorer),
        guardian,
        stop,
        processes: Vec::new(),
        finished: None,
        forked: false,
        buffer: vec![0; FILL_BYTES as usize],
        summary: Summary::default(),
    };
    pager.run()?;
    // If this fails the guardian has ended, and nothing is missing.
    let _ = pager.guardian.done();
    Ok(pager.summary)
}

/// Waits for CRIU.
fn accept(listener: &UnixListener, owner: BorrowedFd<'_>) -> Result<Restorer, PagerError> {
    loop {
        let mut polled = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(owner, PollFlags::POLLIN),
        ];
        match poll(&mut polled, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        // In this order: CRIU may have connected just before.
        if polled[0].any().unwrap_or(true) {
            return Ok(Restorer::new(listener.accept()?.0));
        }
        if polled[1].any().unwrap_or(true) {
            return Err(PagerError::GivenUp);
        }
    }
}

/// A process that lacks memory.
struct Process {
    /// Its number at the dump, or that of the process it was forked from.
    number: u32,
    uffd: Uffd,
    missing: Missing,
    contents: Contents,
    /// Pages that its threads wait for.
    awaited: Vec<u64>,
    gone: bool,
}

impl Process {
    fn is_whole(&self) -> bool {
        self.gone || (self.missing.is_empty() && self.awaited.is_empty())
    }
}

/// Whether all that was to be put is there.
#[derive(PartialEq, Eq)]
enum Filled {
    All,
    /// To be tried again.
    Later,
}

struct Pager<'a> {
    sources: Sources<'a>,
    /// Until it has finished.
    restorer: Option<Restorer>,
    guardian: Guardian,
    stop: &'a dyn Fn(),
    processes: Vec<Process>,
    /// Since when CRIU has.
    finished: Option<Instant>,
    /// A process has forked: what one of them got another may still need.
    forked: bool,
    buffer: Vec<u8>,
    summary: Summary,
}

impl Pager<'_> {
    fn run(&mut self) -> Result<(), PagerError> {
        let mut turn = 0;
        let mut delayed = false;
        loop {
            let idle = self.finished.is_none() || delayed;
            self.wait(match (idle, delayed) {
                (_, true) => PollTimeout::from(PAUSE_MS),
                (true, false) => PollTimeout::NONE,
                (false, false) => PollTimeout::ZERO,
            })?;
            self.read_events()?;
            delayed = self.serve_faults()? == Filled::Later;
            let Some(finished) = self.finished else {
                continue;
            };
            if self.processes.iter().all(Process::is_whole) {
                self.summary.filled_in = finished.elapsed();
                return Ok(());
            }
            turn = (turn + 1) % self.processes.len();
            delayed |= self.fill(turn)? == Filled::Later;
        }
    }

    /// Waits until there is something to read, and takes what CRIU says.
    fn wait(&mut self, limit: PollTimeout) -> Result<(), PagerError> {
        let guardian = self.guardian.as_raw_fd();
        let processes = self.processes.iter().filter(|p| !p.gone);
        let descriptors: Vec<RawFd> = processes
            .map(|process| process.uffd.as_raw_fd())
            .chain([guardian])
            .chain(self.restorer.iter().map(|r| r.as_fd().as_raw_fd()))
            .collect();
        let mut polled: Vec<PollFd> = descriptors
            .iter()
            // SAFETY: all of them are open, and belong to `self`.
            .map(|raw| unsafe { BorrowedFd::borrow_raw(*raw) })
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
            .collect();
        match poll(&mut polled, limit) {
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            other => other?,
        };
        let ready: Vec<RawFd> = polled
            .iter()
            .zip(&descriptors)
            .filter(|(polled, _)| polled.any().unwrap_or(true))
            .map(|(_, raw)| *raw)
            .collect();
        if ready.contains(&guardian) {
            tracing::warn!("the pager's guardian has ended: starting another");
            let close: Vec<RawFd> = self
                .restorer
                .iter()
                .map(|r| r.as_fd().as_raw_fd())
                .collect();
            // It has copies of all that this process has.
            self.guardian = Guardian::start(&close, self.stop)?;
        }
        match &self.restorer {
            Some(restorer) if ready.contains(&restorer.as_fd().as_raw_fd()) => self.listen(),
            _ => Ok(()),
        }
    }

    /// Takes one thing that CRIU says.
    fn listen(&mut self) -> Result<(), PagerError> {
        let Some(restorer) = &self.restorer else {
            return Ok(());
        };
        match restorer.next()? {
            Said::Process(number, uffd) => {
                self.guardian.hold(&uffd)?;
                let missing = Missing::new(images::lazy_of(self.sources.images, number)?);
                self.add(number, uffd, missing)?;
            }
            Said::Dead => {}
            Said::Finished => {
                self.finished = Some(Instant::now());
                self.restorer = None;
            }
            Said::Nothing => return Err(PagerError::Unfinished),
        }
        Ok(())
    }

    fn add(&mut self, number: u32, uffd: Uffd, missing: Missing) -> io::Result<()> {
        self.summary.processes += 1;
        self.processes.push(Process {
            number,
            uffd,
            missing,
            contents: Contents::open(self.sources.store, number)?,
            awaited: Vec::new(),
            gone: false,
        });
        Ok(())
    }

    /// Reads all that the kernel has to tell, and does what must be done before pages are put.
    fn read_events(&mut self) -> Result<(), PagerError> {
        let mut at = 0;
        // Processes that are forked meanwhile are at the end.
        while let Some(process) = self.processes.get_mut(at) {
            let event = match process.gone {
                true => None,
                false => process.uffd.next()?,
            };
            match event {
                None => at += 1,
                Some(Event::Fault(address)) => process.awaited.push(address),
                Some(Event::Remap { from, to, bytes }) => process.missing.remap(from, to, bytes),
                // The process gives removed pages up only after this has been read: from now on they are
                // zero for whoever asks.
                Some(Event::Unmap(range) | Event::Remove(range)) => process.missing.remove(&range),
                Some(Event::Fork(uffd)) => {
                    let (number, missing) = (process.number, process.missing.clone());
                    self.guardian.hold(&uffd)?;
                    self.forked = true;
                    self.add(number, uffd, missing)?;
                }
            }
        }
        Ok(())
    }

    /// Gives threads what they wait for.
    fn serve_faults(&mut self) -> Result<Filled, PagerError> {
        let mut all = Filled::All;
        for at in 0..self.processes.len() {
            for address in std::mem::take(&mut self.processes[at].awaited) {
                if self.serve_fault(at, address)? == Filled::All {
                    self.summary.faults += 1;
                } else if !self.processes[at].gone {
                    self.processes[at].awaited.push(address);
                    all = Filled::Later;
                }
            }
        }
        Ok(all)
    }

    fn serve_fault(&mut self, at: usize, address: u64) -> Result<Filled, PagerError> {
        let process = &mut self.processes[at];
        let page = address..address + PAGE;
        let Some(piece) = process.missing.at(address) else {
            return self.zero(at, &page);
        };
        if process
            .contents
            .next_content(&piece.dumped(&page))?
            .is_none()
        {
            let filled = self.zero(at, &page)?;
            if filled == Filled::All {
                self.processes[at].missing.remove(&page);
            }
            return Ok(filled);
        }
        // The page itself first.
        let filled = self.fill_part(at, &piece, page.clone())?;
        if filled == Filled::All {
            let around = address & !(AROUND_BYTES - 1);
            let after = page.end..(around + AROUND_BYTES).min(piece.range.end);
            let before = around.max(piece.range.start)..address;
            for part in [after, before] {
                if part.start < part.end {
                    // Not waited for: what cannot be put now is put later.
                    let _ = self.fill_part(at, &piece, part)?;
                }
            }
        }
        Ok(filled)
    }

    /// A page of zeros for who waits for it.
    fn zero(&mut self, at: usize, page: &Range<u64>) -> Result<Filled, PagerError> {
        let process = &mut self.processes[at];
        match process.uffd.zero(page.start)? {
            Put::Done(_) => {}
            Put::Present => process.uffd.wake(page)?,
            // It has been unmapped since, and nobody waits.
            Put::Absent => {}
            Put::Gone => process.gone = true,
            Put::Changing | Put::NoMemory => return Ok(Filled::Later),
        }
        Ok(Filled::All)
    }

    /// Puts a part of what is missing into one process.
    fn fill(&mut self, at: usize) -> Result<Filled, PagerError> {
        let process = &mut self.processes[at];
        if process.gone {
            process.missing.clear();
            return Ok(Filled::All);
        }
        let Some(piece) = process.missing.first() else {
            return Ok(Filled::All);
        };
        // What is zero the kernel gives by itself, once the userfaultfd is closed.
        let dumped = piece.dumped(&piece.range);
        let content = process.contents.next_content(&dumped)?;
        let Some(content) = content else {
            process.missing.remove(&piece.range);
            return Ok(Filled::All);
        };
        let start = piece.range.start + (content.start - dumped.start);
        process.missing.remove(&(piece.range.start..start));
        let end = start + (content.end - content.start).min(FILL_BYTES);
        self.fill_part(at, &piece, start..end)
    }

    /// Puts these pages of a piece into a process.
    fn fill_part(
        &mut self,
        at: usize,
        piece: &Piece,
        part: Range<u64>,
    ) -> Result<Filled, PagerError> {
        let process = &mut self.processes[at];
        let buffer = &mut self.buffer[..(part.end - part.start) as usize];
        process.contents.read(piece.dumped(&part).start, buffer)?;
        let mut from = part.start;
        let mut most = part.end - part.start;
        while from < part.end {
            let bytes = most.min(part.end - from);
            let offset = (from - part.start) as usize;
            let content = &buffer[offset..offset + bytes as usize];
            let next = match process.uffd.copy(from, content)? {
                Put::Done(bytes) => {
                    self.summary.bytes += bytes;
                    from + bytes
                }
                Put::Present => {
                    process.uffd.wake(&(from..from + PAGE))?;
                    from + PAGE
                }
                // The process has divided the mapping, as mprotect(2) does.
                Put::Absent if bytes > PAGE => {
                    most = PAGE;
                    continue;
                }
                // CRIU has not registered it yet.
                Put::Absent if self.finished.is_none() => return Ok(Filled::All),
                // Unmapped, by a thread that was faster than what the kernel tells of it: two threads'
                // events may come in another order than they happened.
                Put::Absent => {
                    self.summary.unmapped_bytes += PAGE;
                    from + PAGE
                }
                Put::Gone => {
                    process.gone = true;
                    process.missing.clear();
                    return Ok(Filled::All);
                }
                Put::Changing | Put::NoMemory => return Ok(Filled::Later),
            };
            process.missing.remove(&(from..next));
            if !self.forked {
                process.contents.forget(&piece.dumped(&(from..next)))?;
            }
            from = next;
        }
        Ok(Filled::All)
    }
}

/// Whether this kernel has what a lazy restore needs (`NEED_UFFD_API_FEATURES` in criu/uffd.c).
pub fn works() -> bool {
    uffd::works()
}
