//! Process descriptors: what they refer to cannot become another process.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::cgroup::Cgroup;

/// Opens the only process of a cgroup. Fails with ESRCH if there is none.
pub(crate) fn of_only(cgroup: &Cgroup) -> io::Result<OwnedFd> {
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    let pid = *cgroup.processes().first().ok_or_else(gone)?;
    // SAFETY: pidfd_open takes a number and flags, and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and nothing else knows of it.
    let process = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // It is still there after it was opened, so its id was not that of another process.
    (cgroup.processes().first() == Some(&pid))
        .then_some(process)
        .ok_or_else(gone)
}
