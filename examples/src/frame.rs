//! The message of the echo protocol: 64 bytes, numbered, with a checksum.
//!
//! ```text
//! 0        8          16        24       32        40       60     64
//! ┌────────┬──────────┬─────────┬────────┬─────────┬────────┬──────┐
//! │ magic  │ sequence │ sent_ns │ server │ counted │ filler │ CRC  │
//! └────────┴──────────┴─────────┴────────┴─────────┴────────┴──────┘
//! ```
//!
//! Integers are big-endian; the CRC-32 covers everything before it. A TCP stream contains frames
//! back to back, so one lost or added byte breaks every later frame. A datagram contains one frame.

use std::io::{self, Read};

/// Bytes in a frame.
pub const SIZE: usize = 64;

const MAGIC: &[u8; 8] = b"lm-frame";
const FIELDS: std::ops::Range<usize> = 8..40;
const FILLER: std::ops::Range<usize> = 40..60;
const CHECKED: usize = 60;

/// One message, and its echo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Number of the message on its connection, from 1.
    pub sequence: u64,
    /// When the client sent it, on the client's own clock.
    pub sent_ns: u64,
    /// In the echo: the server's [identity](crate::process::identity).
    pub server: u64,
    /// In the echo: how many frames the server had counted, including this one. Over TCP it counts
    /// per connection, over UDP all together.
    pub counted: u64,
}

impl Frame {
    /// The frame's bytes.
    pub fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(MAGIC);
        let fields = [self.sequence, self.sent_ns, self.server, self.counted];
        for (slot, field) in bytes[FIELDS].chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_be_bytes());
        }
        bytes[FILLER].fill(self.sequence as u8);
        let crc = crc32fast::hash(&bytes[..CHECKED]);
        bytes[CHECKED..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// The frame in `bytes`, or `None` if they are not exactly one intact frame.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SIZE] = bytes.try_into().ok()?;
        let crc = crc32fast::hash(&bytes[..CHECKED]).to_be_bytes();
        if &bytes[..8] != MAGIC || bytes[CHECKED..] != crc {
            return None;
        }
        let field = |index: usize| {
            let at = FIELDS.start + 8 * index;
            u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        Some(Self {
            sequence: field(0),
            sent_ns: field(1),
            server: field(2),
            counted: field(3),
        })
    }
}

/// Reads frames from a stream.
pub struct Frames<R> {
    source: io::BufReader<R>,
    buffer: [u8; SIZE],
    filled: usize,
}

impl<R: Read> Frames<R> {
    /// Reads from `source`.
    pub fn new(source: R) -> Self {
        Self {
            source: io::BufReader::new(source),
            buffer: [0; SIZE],
            filled: 0,
        }
    }

    /// The next frame, or `None` when the stream ended between two frames.
    ///
    /// # Errors
    /// `InvalidData` for bytes that are not a frame, `UnexpectedEof` for an end inside a frame, and
    /// the source's own errors. After `WouldBlock`, which a read timeout causes, nothing is lost:
    /// call again.
    pub fn read(&mut self) -> io::Result<Option<Frame>> {
        while self.filled < SIZE {
            match self.source.read(&mut self.buffer[self.filled..]) {
                Ok(0) if self.filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.filled = 0;
        Frame::decode(&self.buffer)
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "bytes that are no frame"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame {
        sequence: 7,
        sent_ns: u64::MAX,
        server: 9,
        counted: 10,
    };

    #[test]
    fn decodes_what_it_encodes() {
        assert_eq!(Frame::decode(&FRAME.encode()), Some(FRAME));
    }

    #[test]
    fn refuses_any_changed_byte() {
        for at in 0..SIZE {
            let mut bytes = FRAME.encode();
            bytes[at] ^= 1;
            assert_eq!(Frame::decode(&bytes), None, "byte {at}");
        }
    }

    #[test]
    fn tells_a_clean_end_from_a_cut_frame() {
        let whole = FRAME.encode();
        let mut frames = Frames::new(&whole[..]);
        assert_eq!(frames.read().unwrap(), Some(FRAME));
        assert_eq!(frames.read().unwrap(), None);

        let mut frames = Frames::new(&whole[..SIZE - 1]);
        let error = frames.read().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
