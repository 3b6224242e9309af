//! A second process that holds the userfaultfds.
//!
//! When the last copy of a userfaultfd is closed, pages that are still missing read as zeros, and nobody
//! notices. So a process of its own holds them too. It does nothing as long as the pager lives. If the
//! pager ends with pages missing, what waits for a page goes on waiting, and the guardian stops the rest.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::unistd::{ForkResult, fork};

/// What the pager sends: a descriptor comes with the first.
const HOLD: u8 = 1;
const DONE: u8 = 2;

/// The pager's end.
#[derive(Debug)]
pub(super) struct Guardian(OwnedFd);

impl AsRawFd for Guardian {
    /// Becomes readable when the guardian has ended.
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Guardian {
    /// Starts one. It has copies of all descriptors of this process, closes those in `close`, and calls
    /// `stop` if this process ends before [`Guardian::done`].
    ///
    /// This process may have one thread only.
    pub(super) fn start(close: &[RawFd], stop: &dyn Fn()) -> io::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        // SAFETY: there is one thread, so the child may do whatever this process may.
        match unsafe { fork() }? {
            ForkResult::Parent { .. } => Ok(Guardian(ours)),
            ForkResult::Child => {
                drop(ours);
                for descriptor in close {
                    // SAFETY: the child never returns to whoever owns it.
                    unsafe { libc::close(*descriptor) };
                }
                if let Err(error) = guard(&theirs, stop) {
                    tracing::error!("the pager's guardian: {error}");
                    stop();
                }
                // SAFETY: ends this process without running what the pager would run at its end.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Has the guardian hold this descriptor too.
    pub(super) fn hold(&self, descriptor: &impl AsRawFd) -> io::Result<()> {
        let descriptors = [descriptor.as_raw_fd()];
        let held = [ControlMessage::ScmRights(&descriptors)];
        let data = [IoSlice::new(&[HOLD])];
        sendmsg::<()>(self.as_raw_fd(), &data, &held, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Nothing is missing any more: the guardian ends, and does not call `stop`.
    pub(super) fn done(self) -> io::Result<()> {
        let data = [IoSlice::new(&[DONE])];
        sendmsg::<()>(self.as_raw_fd(), &data, &[], MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }
}

/// Holds what comes until the pager has done or ended.
fn guard(pager: &OwnedFd, stop: &dyn Fn()) -> io::Result<()> {
    let mut held = Vec::new();
    loop {
        let mut byte = [0];
        let mut space = cmsg_space!(RawFd);
        let mut data = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(pager.as_raw_fd(), &mut data, Some(&mut space), flags) {
            Err(Errno::EINTR) => continue,
            message => message?,
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                for descriptor in descriptors {
                    // SAFETY: it has just been received, and belongs to nobody else.
                    held.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
                }
            }
        }
        match (message.bytes, byte[0]) {
            (0, _) => {
                stop();
                return Ok(());
            }
            (_, DONE) => return Ok(()),
            _ => {}
        }
    }
}
