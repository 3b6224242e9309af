//! Reads as much of a file as was promised.

use std::fs::File;
use std::io::{self, Read};

use super::Pass;

/// Reads exactly as many bytes as the header promised: a file that changes its size while it is
/// packed must not shift everything behind it.
pub(crate) struct Exactly {
    pub(crate) file: File,
    pub(crate) left: u64,
    pub(crate) pass: Pass,
}

impl Read for Exactly {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = buf.len().min(self.left.try_into().unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let mut n = self.file.read(&mut buf[..wanted])?;
        if n == 0 {
            if self.pass == Pass::Frozen {
                return Err(io::Error::other("a file shrank while it was read"));
            }
            buf[..wanted].fill(0);
            n = wanted;
        }
        self.left -= n as u64;
        Ok(n)
    }
}
