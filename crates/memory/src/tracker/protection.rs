//! The kernel protects pages and notes the first write to each.
//!
//! All that is known is in the kernel: a page is unchanged if it is where writes are followed and still protected. A page that
//! moved (mremap(2)), came anew or belongs to a program that replaced the old one is neither, and so is each page of a child:
//! it is sent again.

use std::ops::Range;

use super::doubts::{self, Doubt};
use super::inject;
use super::pass::{Kind, Pass, PassError, Sink, State, TrackError, Tracker};
use super::sending;
use super::userfault::Userfault;
use crate::PAGE_BYTES;
use crate::pagemap::{Pagemap, Wanted};
use crate::process::Process;
use crate::ranges::LazyRange;
use crate::reader::Reader;
use crate::stream::MOST_PAGES;

pub(super) struct Protection {
    userfault: Userfault,
    /// Pages that are protected but could not be read, and so were not sent.
    unread: Vec<Range<u64>>,
}

impl Protection {
    /// Begins to follow a process; nothing is protected yet. Undone when it is dropped.
    pub(super) fn begin(process: &Process) -> Result<Protection, Doubt> {
        let fd = inject::userfaultfd(process).map_err(Doubt::Inject)?;
        Ok(Protection {
            userfault: Userfault::new(fd).map_err(Doubt::Userfault)?,
            unread: Vec::new(),
        })
    }

    /// Finds what to send, and protects it. An error of the userfaultfd is returned if it is of no use any more.
    fn protect(
        &self,
        pagemap: &mut Pagemap,
        range: &LazyRange,
        found: &mut Vec<Range<u64>>,
    ) -> std::io::Result<Option<std::io::Error>> {
        let mut not_followed = Vec::new();
        pagemap.pages(range.clone(), Wanted::NotFollowed, &mut |pages| {
            not_followed.push(pages)
        })?;
        let wanted = match not_followed.is_empty() {
            true => Wanted::ChangedAndProtect,
            false => match self.userfault.register(range) {
                // Whatever bits are left of an earlier life of these pages.
                Ok(()) => Wanted::PresentAndProtect,
                // The memory that it follows is gone: the process has replaced its program (execve(2)).
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                    return Ok(Some(error));
                }
                // The range is not what it was any more, or is somebody else's to follow: sent each time.
                Err(_) => {
                    found.append(&mut not_followed);
                    Wanted::ChangedAndProtect
                }
            },
        };
        pagemap.pages(range.clone(), wanted, &mut |pages| found.push(pages))?;
        Ok(None)
    }
}

impl Tracker for Protection {
    fn kind(&self) -> Kind {
        Kind::Protection
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
        let mut found = Vec::new();
        let Some(mut pagemap) = Pagemap::open(process, true).map_err(read)? else {
            return Ok(Pass::default());
        };
        for range in ranges {
            if state == State::Frozen {
                let changed = pagemap.pages(range.clone(), Wanted::Changed, &mut |pages| {
                    found.push(pages)
                });
                changed.map_err(read)?;
            } else if let Some(error) = self
                .protect(&mut pagemap, range, &mut found)
                .map_err(read)?
            {
                return Err(TrackError::Doubt(Doubt::Userfault(error)));
            }
        }
        for range in std::mem::take(&mut self.unread) {
            pagemap
                .pages(range, Wanted::Present, &mut |pages| found.push(pages))
                .map_err(read)?;
        }
        if state == State::Running {
            // After the protection and before anything is read: see `doubts`.
            match doubts::about(process) {
                Err(Doubt::Look(_)) if !process.exists() => {}
                looked => looked.map_err(TrackError::Doubt)?,
            }
        }
        let mut pass = Pass::default();
        let mut reader = Reader::new(process);
        let mut buffer = vec![0; MOST_PAGES as usize * PAGE_BYTES];
        for range in found {
            pass.examined_pages += sending::pages(&range);
            let mut at = range.start;
            while at < range.end {
                let wanted = ((range.end - at) as usize).min(buffer.len());
                let length = reader.read(at, &mut buffer[..wanted]).map_err(read)?;
                pass += sending::send(process.inside, at, &buffer[..length], sink)
                    .map_err(PassError::Send)?;
                at += length as u64;
                if length < wanted {
                    pass.unread_pages += 1;
                    self.unread.push(at..at + PAGE_BYTES as u64);
                    at += PAGE_BYTES as u64;
                }
            }
        }
        Ok(pass)
    }
}
