//! What a regular file holds. Of a file with holes only what is not a hole travels, and of a large one that
//! was sent before only the blocks that have changed: pieces, each with its offset and its length before it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::blocks::{Blocks, LARGE, Recorder};
use super::{Exactly, Pass, invalid};

/// Holes that are shorter than this are sent as zeros: a piece costs a call at each end.
const SHORT_HOLE: u64 = 64 << 10;

/// Most pieces of a file: what lies behind is one more, with its holes.
const MOST_PIECES: usize = 1 << 16;

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// Bytes before a piece: its offset and its length.
const PIECE_HEADER: u64 = 16;

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What is sent of a file, as a reader.
pub(super) struct Contents {
    file: Exactly,
    /// Where the next byte of it is.
    offset: u64,
    /// The file's size, if pieces of it are sent.
    pub(super) size: Option<u64>,
    /// What is not in a piece stays as it was sent before.
    pub(super) patch: bool,
    /// Those to come, in order; none of a file that is sent whole.
    pieces: std::vec::IntoIter<Piece>,
    header: io::Cursor<Vec<u8>>,
    /// Of a large file: what is sent of it, for a later pass to compare with.
    recorder: Option<Recorder>,
}

impl Contents {
    /// Of `file` as it is now, without what has not changed since `sent`.
    pub(super) fn new(file: File, pass: Pass, sent: Option<&Blocks>) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let pieces = pieces(&file, size)?;
        if let Some(sent) = sent
            && let Some(now) = sent.resized(size)
        {
            let now = read_blocks(&file, &pieces, now)?;
            let changed = sent.changed(&now, size);
            // Otherwise all of it is sent, and its holes are holes again.
            if total(&changed) <= total(&pieces) / 2 {
                let mut contents = Self::of_pieces(file, pass, size, changed);
                contents.patch = true;
                contents.recorder = (pass == Pass::Live).then(|| Recorder::new(now));
                return Ok(contents);
            }
        }
        let whole = Piece {
            offset: 0,
            length: size,
        };
        let mut contents = match size == 0 || pieces == [whole] {
            true => Contents {
                file: Exactly {
                    file,
                    left: size,
                    pass,
                },
                size: None,
                offset: 0,
                patch: false,
                pieces: Vec::new().into_iter(),
                header: io::Cursor::default(),
                recorder: None,
            },
            false => Self::of_pieces(file, pass, size, pieces),
        };
        // After the last pass there is nothing to compare.
        let record = pass == Pass::Live && size >= LARGE;
        contents.recorder = record.then(|| Recorder::new(Blocks::new(size)));
        Ok(contents)
    }

    fn of_pieces(file: File, pass: Pass, size: u64, pieces: Vec<Piece>) -> Self {
        Contents {
            file: Exactly {
                file,
                left: 0,
                pass,
            },
            size: Some(size),
            offset: 0,
            patch: false,
            pieces: pieces.into_iter(),
            header: io::Cursor::default(),
            recorder: None,
        }
    }

    /// How many bytes there are to read.
    pub(super) fn length(&self) -> u64 {
        let pieces = self.pieces.as_slice().iter();
        self.file.left + pieces.map(|piece| PIECE_HEADER + piece.length).sum::<u64>()
    }

    /// What the other end has of a large file once everything was read.
    pub(super) fn sent(self) -> Option<Blocks> {
        self.recorder.map(Recorder::finish)
    }
}

impl Read for Contents {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.header.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            let n = self.file.read(buf)?;
            if n > 0 {
                if let Some(recorder) = &mut self.recorder {
                    recorder.add(self.offset, &buf[..n]);
                }
                self.offset += n as u64;
                return Ok(n);
            }
            let Some(piece) = self.pieces.next() else {
                return Ok(0);
            };
            self.file.file.seek(SeekFrom::Start(piece.offset))?;
            self.file.left = piece.length;
            self.offset = piece.offset;
            let header = [piece.offset.to_be_bytes(), piece.length.to_be_bytes()].concat();
            self.header = io::Cursor::new(header);
        }
    }
}

fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.length).sum()
}

/// Fills in `blocks` from these `pieces` of `file`, which are all that is no hole. What goes meanwhile is
/// taken for a hole.
fn read_blocks(file: &File, pieces: &[Piece], blocks: Blocks) -> io::Result<Blocks> {
    let mut recorder = Recorder::new(blocks);
    let mut buffer = vec![0; BUFFER];
    for piece in pieces {
        let (mut offset, end) = (piece.offset, piece.offset + piece.length);
        while offset < end {
            let wanted = buffer.len().min((end - offset) as usize);
            let n = file.read_at(&mut buffer[..wanted], offset)?;
            if n == 0 {
                break;
            }
            recorder.add(offset, &buffer[..n]);
            offset += n as u64;
        }
    }
    Ok(recorder.finish())
}

/// What of the first `size` bytes of `file` is no hole. Holes are not read.
fn pieces(file: &File, size: u64) -> io::Result<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut offset = 0;
    while let Some(begin) = seek(file, offset, Whence::SeekData)?.filter(|begin| *begin < size) {
        let end = match pieces.len() < MOST_PIECES {
            true => seek(file, begin, Whence::SeekHole)?.map_or(size, |end| end.min(size)),
            false => size,
        };
        match pieces.last_mut() {
            Some(last) if begin - (last.offset + last.length) < SHORT_HOLE => {
                last.length = end - last.offset;
            }
            _ => pieces.push(Piece {
                offset: begin,
                length: end - begin,
            }),
        }
        offset = end;
    }
    if let Some(first) = pieces.first_mut().filter(|first| first.offset < SHORT_HOLE) {
        first.length += first.offset;
        first.offset = 0;
    }
    if let Some(last) = pieces.last_mut()
        && size - (last.offset + last.length) < SHORT_HOLE
    {
        last.length = size - last.offset;
    }
    lseek(file.as_fd(), 0, Whence::SeekSet)?;
    Ok(pieces)
}

/// Where data or a hole begins at `offset` or after it; `None`: there is none any more.
fn seek(file: &File, offset: u64, whence: Whence) -> io::Result<Option<u64>> {
    match lseek(file.as_fd(), offset as i64, whence) {
        Ok(found) => Ok(Some(found as u64)),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes the pieces that `source` holds into `file`, and gives it its `size`. In a file that was empty,
/// what was a hole is one again.
pub(super) fn write_pieces(mut source: impl Read, file: &mut File, size: u64) -> io::Result<()> {
    let mut end = 0;
    let mut header = [0; PIECE_HEADER as usize];
    while read_header(&mut source, &mut header)? {
        let number = |at: usize| u64::from_be_bytes(*header[at..].first_chunk().expect("16"));
        let (offset, length) = (number(0), number(8));
        let fits = offset.checked_add(length).is_some_and(|end| end <= size);
        if offset < end || !fits {
            return Err(invalid("a piece of a file lies outside of its place"));
        }
        end = offset + length;
        file.seek(SeekFrom::Start(offset))?;
        if io::copy(&mut source.by_ref().take(length), file)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    file.set_len(size)?;
    file.flush()
}

/// Reads the next header; says whether there was one.
fn read_header(source: &mut impl Read, header: &mut [u8]) -> io::Result<bool> {
    let n = source.read(header)?;
    if n == 0 {
        return Ok(false);
    }
    source.read_exact(&mut header[n..])?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    fn file(dir: &tempfile::TempDir, name: &str) -> File {
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true);
        options.open(dir.path().join(name)).unwrap()
    }

    /// Sends `from` to a file `to`; says how many bytes were sent.
    fn send(from: &File, to: &mut File) -> u64 {
        let from = from.try_clone().unwrap();
        let mut contents = Contents::new(from, Pass::Frozen, None).unwrap();
        let (bytes, sparse) = (contents.length(), contents.size);
        let mut sent = Vec::new();
        contents.read_to_end(&mut sent).unwrap();
        assert_eq!(sent.len() as u64, bytes);
        match sparse {
            Some(size) => write_pieces(sent.as_slice(), to, size).unwrap(),
            None => to.write_all(&sent).unwrap(),
        }
        bytes
    }

    #[test]
    fn holes_stay_holes_and_the_rest_arrives() {
        let dir = tempfile::tempdir().unwrap();
        const PIECES: [&[u64]; 7] = [
            &[],
            &[0],
            &[5 << 20],
            &[0, 9 << 20],
            &[1 << 10, 30 << 20, (32 << 20) - 100],
            &[(32 << 20) - 100],
            &[1 << 20, (1 << 20) + (128 << 10)],
        ];
        for (number, pieces) in PIECES.into_iter().enumerate() {
            let from = file(&dir, &format!("from {number}"));
            let mut to = file(&dir, &format!("to {number}"));
            from.set_len(32 << 20).unwrap();
            for offset in pieces {
                from.write_all_at(&[7; 100], *offset).unwrap();
            }
            let sent = send(&from, &mut to);
            assert!(sent <= pieces.len() as u64 * (140 << 10), "{sent} bytes");
            let [from, to] = ["from", "to"].map(|name| dir.path().join(format!("{name} {number}")));
            assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
            let blocks = to.metadata().unwrap().blocks();
            assert!(blocks <= pieces.len() as u64 * 300, "{blocks} blocks");
        }
    }

    #[test]
    fn pieces_stay_inside_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let piece = |offset: u64, length: u64, bytes: &[u8]| {
            [&offset.to_be_bytes(), &length.to_be_bytes(), bytes].concat()
        };
        for (number, stream) in [
            piece(0, 9, b"123456789"),
            piece(8, 1, b"1"),
            piece(u64::MAX, 2, b"12"),
            piece(0, 4, b"1"),
            [piece(4, 2, b"12"), piece(0, 2, b"12")].concat(),
            vec![0; 7],
        ]
        .into_iter()
        .enumerate()
        {
            let mut to = file(&dir, &number.to_string());
            assert!(write_pieces(stream.as_slice(), &mut to, 8).is_err());
        }
    }
}
