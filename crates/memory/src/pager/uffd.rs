//! A userfaultfd that CRIU has made in a process: userfaultfd(2), ioctl_userfaultfd(2).

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::PAGE_BYTES;

mod ioctls {
    use super::{Api, CopyPages, Pages, ZeroPages};

    nix::ioctl_read!(wake, 0xaa, 2, Pages);
    nix::ioctl_readwrite!(copy, 0xaa, 3, CopyPages);
    nix::ioctl_readwrite!(zero, 0xaa, 4, ZeroPages);
    nix::ioctl_readwrite!(api, 0xaa, 0x3f, Api);
}

/// `struct uffdio_range`.
#[repr(C)]
struct Pages {
    start: u64,
    bytes: u64,
}

impl From<&Range<u64>> for Pages {
    fn from(range: &Range<u64>) -> Self {
        Pages {
            start: range.start,
            bytes: range.end - range.start,
        }
    }
}

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `UFFD_API`, and what it must be able to tell of: fork, remap, remove, unmap.
const API: u64 = 0xaa;
const FEATURES: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;

/// Whether this kernel makes userfaultfds that tell of all that.
pub(super) fn works() -> bool {
    // SAFETY: no pointers are passed.
    let raw = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    let Some(raw) = i32::try_from(raw).ok().filter(|raw| *raw >= 0) else {
        return false;
    };
    // SAFETY: the descriptor has just been made, and belongs to nobody else.
    let made = unsafe { OwnedFd::from_raw_fd(raw) };
    let mut wanted = Api {
        api: API,
        features: FEATURES,
        ioctls: 0,
    };
    // SAFETY: the kernel reads and writes this structure only.
    unsafe { ioctls::api(made.as_raw_fd(), &mut wanted) }.is_ok()
}

/// `struct uffdio_copy`.
#[repr(C)]
struct CopyPages {
    to: u64,
    from: u64,
    bytes: u64,
    mode: u64,
    copied: i64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
struct ZeroPages {
    pages: Pages,
    mode: u64,
    filled: i64,
}

/// Bytes of `struct uffd_msg`.
const MESSAGE_BYTES: usize = 32;

/// What the kernel tells of the process.
#[derive(Debug)]
pub(super) enum Event {
    /// A thread waits for this page.
    Fault(u64),
    /// It has forked; this one is the child's.
    Fork(Uffd),
    /// It has moved memory.
    Remap { from: u64, to: u64, bytes: u64 },
    /// It gives up what is in its memory there, which stays mapped: `MADV_DONTNEED` and the like.
    Remove(Range<u64>),
    /// It has no memory there any more.
    Unmap(Range<u64>),
}

/// What became of pages that were to be put into the process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// So many bytes were.
    Done(u64),
    /// There was a page in the first place already.
    Present,
    /// The first place is no memory of this userfaultfd, or not all of it is in one mapping.
    Absent,
    /// The process is just changing its mappings: what it says of that must be read first.
    Changing,
    /// No memory is left for it, on the host or in its cgroup.
    NoMemory,
    /// The process is gone.
    Gone,
}

/// The descriptor.
#[derive(Debug)]
pub(super) struct Uffd(OwnedFd);

impl AsRawFd for Uffd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl Uffd {
    /// One that has arrived.
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Uffd(descriptor))
    }

    /// The next thing that the kernel has to tell, if there is any now.
    pub(super) fn next(&self) -> io::Result<Option<Event>> {
        let mut message = [0; MESSAGE_BYTES];
        match nix::unistd::read(&self.0, &mut message) {
            Ok(MESSAGE_BYTES) => {}
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let word = |at: usize| u64::from_ne_bytes(message[at..at + 8].try_into().expect("eight"));
        Ok(Some(match message[0] {
            // `UFFD_EVENT_PAGEFAULT` and those that follow it.
            0x12 => Event::Fault(word(16) & !(PAGE_BYTES as u64 - 1)),
            0x13 => {
                let descriptor = i32::from_ne_bytes(message[8..12].try_into().expect("four"));
                // SAFETY: the kernel has just made it for this process, and nobody else knows of it.
                Event::Fork(Uffd::new(unsafe { OwnedFd::from_raw_fd(descriptor) })?)
            }
            0x14 => Event::Remap {
                from: word(8),
                to: word(16),
                bytes: word(24),
            },
            0x15 => Event::Remove(word(8)..word(16)),
            0x16 => Event::Unmap(word(8)..word(16)),
            other => {
                let what = format!("userfaultfd: no known event: {other:#x}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }))
    }

    /// Puts these bytes, whole pages, into the process at `to`, and wakes who waits for them.
    pub(super) fn copy(&self, to: u64, content: &[u8]) -> io::Result<Put> {
        let mut pages = CopyPages {
            to,
            from: content.as_ptr() as u64,
            bytes: content.len() as u64,
            mode: 0,
            copied: 0,
        };
        // SAFETY: `content` is readable for as many bytes as are said, and outlives the call.
        let result = unsafe { ioctls::copy(self.as_raw_fd(), &mut pages) };
        put(result, pages.bytes, pages.copied)
    }

    /// The same with a page of zeros.
    pub(super) fn zero(&self, to: u64) -> io::Result<Put> {
        let bytes = PAGE_BYTES as u64;
        let mut pages = ZeroPages {
            pages: Pages { start: to, bytes },
            mode: 0,
            filled: 0,
        };
        // SAFETY: the kernel reads and writes this structure only.
        let result = unsafe { ioctls::zero(self.as_raw_fd(), &mut pages) };
        put(result, bytes, pages.filled)
    }

    /// Wakes who waits for these pages.
    pub(super) fn wake(&self, range: &Range<u64>) -> io::Result<()> {
        // SAFETY: the kernel reads this structure only.
        unsafe { ioctls::wake(self.as_raw_fd(), &mut range.into()) }?;
        Ok(())
    }
}

/// `count` is what the kernel has done, or why it has done nothing.
fn put(result: nix::Result<i32>, bytes: u64, count: i64) -> io::Result<Put> {
    let error = match result {
        Ok(_) => return Ok(Put::Done(bytes)),
        Err(_) if count > 0 => return Ok(Put::Done(count as u64)),
        Err(error) => error,
    };
    match error {
        Errno::EEXIST => Ok(Put::Present),
        Errno::ENOENT => Ok(Put::Absent),
        Errno::EAGAIN => Ok(Put::Changing),
        Errno::ENOMEM => Ok(Put::NoMemory),
        // The second before Linux 4.13.
        Errno::ESRCH | Errno::ENOSPC => Ok(Put::Gone),
        error => Err(error.into()),
    }
}
