//! The connection from CRIU's restore: criu/uffd.c, `send_uffd` and `lazy_pages_finish_restore`.
//!
//! For each process CRIU sends its number, four bytes, and then its userfaultfd along with one byte. The
//! number of a process that is dead already is negative, and nothing follows. At the end comes a word in
//! place of a number.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::uffd::Uffd;

/// `LAZY_PAGES_RESTORE_FINISHED`.
const FINISHED: u32 = 0x5253_5446;

/// What CRIU says.
#[derive(Debug)]
pub(super) enum Said {
    /// The process of this number has this descriptor.
    Process(u32, Uffd),
    /// The process of this number is dead.
    Dead,
    /// All processes are about to run.
    Finished,
    /// It has closed the connection.
    Nothing,
}

/// The connection.
#[derive(Debug)]
pub(super) struct Restorer(UnixStream);

impl AsFd for Restorer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Restorer {
    pub(super) fn new(connection: UnixStream) -> Self {
        Restorer(connection)
    }

    /// Waits for the next thing that CRIU says.
    pub(super) fn next(&self) -> io::Result<Said> {
        let mut number = [0; 4];
        let mut filled = 0;
        while filled < number.len() {
            let (count, _) = self.receive(&mut number[filled..])?;
            match (count, filled) {
                (0, 0) => return Ok(Said::Nothing),
                (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => filled += count,
            }
        }
        let number = u32::from_ne_bytes(number);
        if number == FINISHED {
            return Ok(Said::Finished);
        }
        if (number as i32) < 0 {
            return Ok(Said::Dead);
        }
        let (_, descriptor) = self.receive(&mut [0])?;
        let descriptor = descriptor.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "CRIU sent no userfaultfd")
        })?;
        Ok(Said::Process(number, Uffd::new(descriptor)?))
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let mut space = cmsg_space!(RawFd);
        let mut data = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = loop {
            match recvmsg::<()>(self.0.as_raw_fd(), &mut data, Some(&mut space), flags) {
                Err(Errno::EINTR) => {}
                Ok(message) => break (message.bytes, message.cmsgs()?.next()),
                Err(error) => return Err(error.into()),
            }
        };
        let (count, control) = message;
        let descriptor = match control {
            Some(ControlMessageOwned::ScmRights(descriptors)) => descriptors.first().copied(),
            _ => None,
        };
        // SAFETY: it has just been received, and belongs to nobody else; there is room for one only.
        let descriptor = descriptor.map(|raw| unsafe { OwnedFd::from_raw_fd(raw) });
        Ok((count, descriptor))
    }
}
