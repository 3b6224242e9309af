//! A directory below which nothing but what is really there is opened: no symbolic link is followed and no
//! `..` leads out, whatever a container or a peer puts in the way.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

/// The root of a tree.
pub(super) struct Beneath(OwnedFd);

impl Beneath {
    /// The directory at `path`, which its own host has chosen.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let root = File::open(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Ok(Beneath(root.into()))
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.0
    }

    /// Opens what is at `relative`; the root itself if that is empty. Fails with `ELOOP` if there is a
    /// symbolic link on the way.
    pub(super) fn open(&self, relative: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let path = match relative.as_os_str().is_empty() {
            true => Path::new("."),
            false => relative,
        };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(openat2(self.0.as_fd(), path, how)?)
    }
}

/// Takes hold of `name` in `directory`, whatever it is. This has no effect on it: no device is opened, no
/// reader of a FIFO is waited for.
pub(super) fn hold(directory: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty())?.into())
}

/// Opens a regular file that is held, to read it. Does not wait for whoever has a lease on it: that
/// fails with `WouldBlock`.
pub(super) fn read_held(held: &File) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(held_path(held))
}

/// Opens a regular file that is held, to change what is in it.
pub(super) fn write_held(held: &File) -> io::Result<File> {
    File::options().write(true).open(held_path(held))
}

/// A path to an open file for calls that take no descriptor (proc_pid_fd(5)). It is for calls that follow
/// links, and follows this one only: that of a held symbolic link is the link.
pub(super) fn held_path(held: &impl AsRawFd) -> PathBuf {
    Path::new("/proc/self/fd").join(held.as_raw_fd().to_string())
}

/// A path to `name` in an open directory for calls that have no `…at` form (proc_pid_fd(5)).
pub(super) fn path_in(directory: &OwnedFd, name: &OsStr) -> PathBuf {
    held_path(directory).join(name)
}
