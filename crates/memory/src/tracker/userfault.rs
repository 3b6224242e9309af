//! A userfaultfd that only notes which pages are written to (userfaultfd(2), linux/userfaultfd.h).
//!
//! With `UFFD_FEATURE_WP_ASYNC` (since 6.7) nobody has to answer a fault: the kernel lifts the page's protection itself, and
//! `PAGEMAP_SCAN` shows that it is lifted.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::pagemap::iowr;

const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFD_USER_MODE_ONLY: i32 = 1;
const UFFDIO_API: libc::Ioctl = iowr(0xaa, 0x3f, size_of::<Api>()) as libc::Ioctl;
const UFFDIO_REGISTER: libc::Ioctl = iowr(0xaa, 0x00, size_of::<Register>()) as libc::Ioctl;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;

#[repr(C)]
#[derive(Default)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Default)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// Whether the kernel has what following writes needs.
pub(super) fn is_here() -> bool {
    let flags = libc::O_CLOEXEC | UFFD_USER_MODE_ONLY;
    // SAFETY: no pointers are passed, and the descriptor is new.
    let made = unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, flags);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as RawFd))
    };
    made.is_some_and(|fd| Userfault::new(fd).is_ok())
}

/// Of one process's memory. When the last copy is closed, all is as it was before.
pub(super) struct Userfault(OwnedFd);

impl Userfault {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Userfault> {
        let mut api = Api {
            api: UFFD_API,
            features: UFFD_FEATURE_WP_ASYNC,
            ioctls: 0,
        };
        // SAFETY: the structure is the one that the request names.
        match unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &mut api) } {
            0 => Ok(Userfault(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Lets writes to a range be followed. Its pages are to be protected next.
    pub(super) fn register(&self, range: &Range<u64>) -> io::Result<()> {
        let mut register = Register {
            start: range.start,
            len: range.end - range.start,
            mode: UFFDIO_REGISTER_MODE_WP,
            ioctls: 0,
        };
        // SAFETY: the structure is the one that the request names.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_REGISTER, &mut register) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
