//! The sockets of a container's programs, reached from outside.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::socket::getsockopt;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

pub mod connections;
mod groups;
mod known;
mod option;
mod outside;
pub mod settings;

pub use outside::encrypted_by_the_kernel;

/// A socket, and one of the processes that have it open.
pub(crate) struct Socket {
    /// The process, by its number on this host.
    pub(crate) pid: i32,
    /// The descriptor's number there.
    pub(crate) number: i32,
    /// A descriptor of our own for it (pidfd_getfd(2)).
    pub(crate) descriptor: OwnedFd,
}

/// Shows each socket of these processes to `look`, once. Processes that are gone, and sockets that are closed
/// meanwhile, are skipped. Nothing of a socket changes by that; a program that closes it meanwhile ends it a
/// moment later.
///
/// # Errors
/// Those of `look`; without `CAP_SYS_PTRACE`.
pub(crate) fn each(
    processes: &[i32],
    mut look: impl FnMut(&Socket) -> io::Result<()>,
) -> io::Result<()> {
    let mut seen: HashSet<PathBuf> = HashSet::new();
    for pid in processes {
        let Some(process) = Pid::from_raw(*pid) else {
            continue;
        };
        let process = match pidfd_open(process, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for entry in entries.flatten() {
            let is_new_socket = fs::read_link(entry.path()).is_ok_and(|target| {
                target.to_string_lossy().starts_with("socket:") && seen.insert(target)
            });
            let number = entry.file_name().to_string_lossy().parse();
            let (true, Ok(number)) = (is_new_socket, number) else {
                continue;
            };
            let descriptor = match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
                Ok(descriptor) => descriptor,
                Err(rustix::io::Errno::BADF | rustix::io::Errno::SRCH) => continue,
                Err(errno) => return Err(errno.into()),
            };
            look(&Socket {
                pid: *pid,
                number,
                descriptor,
            })?;
        }
    }
    Ok(())
}

/// A descriptor of our own for what process `pid` has open under this number.
///
/// # Errors
/// If there is no such process or descriptor; without `CAP_SYS_PTRACE`.
fn take(pid: i32, number: i32) -> io::Result<OwnedFd> {
    let process = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    Ok(pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?)
}

/// The kind of a socket of the Internet protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    family: i32,
    kind: i32,
    protocol: i32,
}

impl Kind {
    /// Nothing for sockets of other families.
    fn of(socket: BorrowedFd<'_>) -> Option<Self> {
        let family = option::number(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
        let is_known = [libc::AF_INET, libc::AF_INET6].contains(&family);
        let kind = getsockopt(&socket, nix::sys::socket::sockopt::SockType).ok()?;
        is_known.then_some(Kind {
            family,
            kind: kind as i32,
            protocol: option::number(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL)?,
        })
    }
}
