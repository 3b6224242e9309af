//! Pages on their way to the other host.
//!
//! A stream is a sequence of runs, each of pages that follow each other in one process: a header of 20 bytes,
//! little-endian, and the content unless all of it is zero.
//!
//! | bytes | |
//! |---|---|
//! | 4 | the process's number in the container's pid namespace |
//! | 8 | address of the first page |
//! | 4 | number of pages |
//! | 4 | what follows: 0 nothing, all are zero; 1 their content |
//!
//! A page that comes again replaces the one before.

use std::io::{self, Read, Write};

use crate::PAGE_BYTES;

/// Most pages of one run with content: one MiB.
pub const MOST_PAGES: u32 = 256;

const HEADER_BYTES: usize = 20;
const ZERO: u32 = 0;
const CONTENT: u32 = 1;

/// Pages that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// Number of the process in the container's pid namespace, as in the names of CRIU's images.
    pub process: u32,
    /// Where the first page is in that process: a multiple of [`PAGE_BYTES`].
    pub address: u64,
    /// How many there are.
    pub pages: u32,
    /// What is in them; if nothing, they are zero.
    pub content: Option<&'a [u8]>,
}

/// Writes a run.
///
/// # Errors
/// Those of the writer.
///
/// # Panics
/// If the length of its content is not that of its pages, or if there are too many.
pub fn write(run: &Run<'_>, writer: &mut impl Write) -> io::Result<()> {
    let kind = match run.content {
        None => ZERO,
        Some(content) => {
            assert!(run.pages <= MOST_PAGES && content.len() == run.pages as usize * PAGE_BYTES);
            CONTENT
        }
    };
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&run.process.to_le_bytes());
    header[4..12].copy_from_slice(&run.address.to_le_bytes());
    header[12..16].copy_from_slice(&run.pages.to_le_bytes());
    header[16..].copy_from_slice(&kind.to_le_bytes());
    writer.write_all(&header)?;
    writer.write_all(run.content.unwrap_or_default())
}

/// Reads the next run, with `buffer` for its content, or nothing at the end of the stream.
///
/// # Errors
/// Those of the reader, and `InvalidData` for what cannot be a run: its pages do not end within the address
/// space of a process, or have more content than a run may have.
pub fn read<'a>(reader: &mut impl Read, buffer: &'a mut Vec<u8>) -> io::Result<Option<Run<'a>>> {
    let mut header = [0; HEADER_BYTES];
    if !read_header(reader, &mut header)? {
        return Ok(None);
    }
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let (process, pages, kind) = (word(0), word(12), word(16));
    let address = u64::from_le_bytes(header[4..12].try_into().expect("eight bytes"));
    let bytes = u64::from(pages) * PAGE_BYTES as u64;
    let end = address.checked_add(bytes);
    if process == 0
        || pages == 0
        || !address.is_multiple_of(PAGE_BYTES as u64)
        || end.is_none_or(|end| end > 1 << 57)
    {
        return Err(invalid("a run of pages that no process can have"));
    }
    let content = match kind {
        ZERO => None,
        CONTENT if pages <= MOST_PAGES => {
            buffer.resize(bytes as usize, 0);
            reader.read_exact(buffer)?;
            Some(buffer.as_slice())
        }
        _ => return Err(invalid("a run of pages of no known kind")),
    };
    Ok(Some(Run {
        process,
        address,
        pages,
        content,
    }))
}

/// Whether there is another header, which is then in `header`.
fn read_header(reader: &mut impl Read, header: &mut [u8]) -> io::Result<bool> {
    let first = loop {
        match reader.read(&mut header[..1]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    if first == 0 {
        return Ok(false);
    }
    reader.read_exact(&mut header[1..])?;
    Ok(true)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(runs: &[Run<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for run in runs {
            write(run, &mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let content = vec![7; 2 * PAGE_BYTES];
        let runs = [
            Run {
                process: 1,
                address: 0x7f00_0000_0000,
                pages: 2,
                content: Some(&content),
            },
            Run {
                process: 22,
                address: 0,
                pages: 1 << 20,
                content: None,
            },
        ];
        let bytes = bytes_of(&runs);
        let (mut reader, mut buffer) = (bytes.as_slice(), Vec::new());
        assert_eq!(read(&mut reader, &mut buffer).unwrap(), Some(runs[0]));
        assert_eq!(read(&mut reader, &mut buffer).unwrap(), Some(runs[1]));
        assert_eq!(read(&mut reader, &mut buffer).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let good = Run {
            process: 1,
            address: 0x1000,
            pages: 1,
            content: None,
        };
        let wrong = [
            Run { process: 0, ..good },
            Run { address: 1, ..good },
            Run { pages: 0, ..good },
            Run {
                address: u64::MAX - 4095,
                ..good
            },
        ];
        for run in wrong {
            let bytes = bytes_of(&[run]);
            let error = read(&mut bytes.as_slice(), &mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{run:?}");
        }
        for (at, byte) in [(16, 2), (16, 255)] {
            let mut bytes = bytes_of(&[good]);
            bytes[at] = byte;
            read(&mut bytes.as_slice(), &mut Vec::new()).unwrap_err();
        }
        // More content than a run may have: refused before a byte of it is read.
        let mut bytes = bytes_of(&[Run {
            pages: MOST_PAGES + 1,
            ..good
        }]);
        bytes[16] = 1;
        let error = read(&mut bytes.as_slice(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        // Cut off.
        let bytes = bytes_of(&[good]);
        let error = read(&mut &bytes[..19], &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
