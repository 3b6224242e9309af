//! What a command's keeper on the machine and the agent in the host say to each other: frames that
//! consist of a kind, a length and that many bytes.

use std::io::{self, Read, Write};

/// Longest frame: whoever sends one that claims to be longer is neither of the two.
const LONGEST: usize = 1 << 20;

/// How much of a command's input may be under way before the agent has passed it on. Because of the
/// limit, the agent never stops reading, and a signal behind the input arrives.
pub(crate) const WINDOW: usize = 256 << 10;

/// What a frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// To the agent: one word of the command line.
    Argument,
    /// To the agent: `NAME=VALUE` of the environment.
    Variable,
    /// To the agent: rows and columns of a terminal (two bytes each). Before `Start`, the command
    /// gets one; after it, the terminal's size has changed.
    Terminal,
    /// To the agent: run it.
    Start,
    /// To the agent: input; an empty frame is its end.
    Input,
    /// To the agent: a signal's number.
    Signal,
    /// To the keeper: this much input was passed on (four bytes).
    Taken,
    /// To the keeper: output.
    Output,
    /// To the keeper: output on stderr.
    Error,
    /// To the keeper: the command has ended with this status (one byte).
    Exit,
    /// To the keeper: it could not be started, because of this error number (four bytes).
    Failed,
}

const KINDS: [Kind; 11] = [
    Kind::Argument,
    Kind::Variable,
    Kind::Terminal,
    Kind::Start,
    Kind::Input,
    Kind::Signal,
    Kind::Taken,
    Kind::Output,
    Kind::Error,
    Kind::Exit,
    Kind::Failed,
];

/// Writes one frame, in one piece.
pub(crate) fn send(mut to: impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(5 + bytes.len());
    frame.push(kind as u8);
    frame.extend(length.to_be_bytes());
    frame.extend(bytes);
    to.write_all(&frame)
}

/// Reads one frame; `None` at the end of the stream.
pub(crate) fn receive(mut from: impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut kind = [0];
    if from.read(&mut kind)? == 0 {
        return Ok(None);
    }
    let unknown = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = *KINDS.get(usize::from(kind[0])).ok_or_else(unknown)?;
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > LONGEST {
        return Err(unknown());
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(Some((kind, bytes)))
}

/// The number that a frame contains.
pub(crate) fn number(bytes: &[u8]) -> io::Result<u32> {
    let bytes = bytes.try_into().map_err(io::Error::other)?;
    Ok(u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::{KINDS, Kind, receive, send};

    #[test]
    fn what_is_sent_is_received() {
        let mut stream = Vec::new();
        for kind in KINDS {
            send(&mut stream, kind, b"some").unwrap();
        }
        send(&mut stream, Kind::Input, b"").unwrap();
        let mut stream = stream.as_slice();
        for kind in KINDS {
            let frame = receive(&mut stream).unwrap();
            assert_eq!(frame, Some((kind, b"some".to_vec())));
        }
        assert_eq!(
            receive(&mut stream).unwrap(),
            Some((Kind::Input, Vec::new()))
        );
        assert_eq!(receive(&mut stream).unwrap(), None);
    }

    #[test]
    fn nonsense_is_an_error() {
        for nonsense in [&[99, 0, 0, 0, 0][..], &[0, 255, 0, 0, 0], &[0, 0]] {
            assert!(receive(nonsense).is_err(), "{nonsense:?}");
        }
    }
}
