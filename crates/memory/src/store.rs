//! The pages of a container that have come ahead of its checkpoint.
//!
//! A directory with a file for each process, in which a page is where it is in the process. The files are
//! sparse: pages that are zero are holes in them and cost nothing. So a page that comes again replaces the
//! one before, and another process needs nothing but the directory to read them. Meant for tmpfs, whose
//! files may be as long as an address space.
//!
//! Which pages have come is remembered in memory, in ranges.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek64};

use crate::PAGE_BYTES;
use crate::images::{self, ImagesError};
use crate::page_set::PageSet;
use crate::stream::{self, Run};

/// Most processes of one container: each has an open file.
const MOST_PROCESSES: usize = 16 << 10;

/// Pages cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The stream or a file failed.
    #[error("the memory that goes ahead: {0}")]
    Io(#[from] io::Error),
    /// More than there is room for.
    #[error("the memory that goes ahead is more than the {} MiB that there is room for", .0 >> 20)]
    Full(u64),
    /// More processes than it is made for.
    #[error("the memory of more than {MOST_PROCESSES} processes went ahead")]
    Processes,
}

/// Why a container cannot be restored from a store.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The images cannot be read.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// A page has not come.
    #[error("the page at {address:#x} of process {process} did not come ahead of the checkpoint")]
    Missing {
        /// Number of the process in the container's pid namespace.
        process: u32,
        /// Where the page is in it.
        address: u64,
    },
}

/// The pages of one container, while they come.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    limit_bytes: u64,
    bytes: u64,
    /// What it takes to know which pages have come.
    own_bytes: u64,
    processes: BTreeMap<u32, Pages>,
}

/// Those of one process.
#[derive(Debug)]
struct Pages {
    file: File,
    /// All that have come.
    known: PageSet,
    /// Those that are not zero.
    content: PageSet,
}

/// The file of a process.
fn path_of(directory: &Path, process: u32) -> PathBuf {
    directory.join(format!("memory-{process}"))
}

impl Store {
    /// An empty store in this directory, which takes at most so many bytes: of pages that are not zero, and to know
    /// which have come. Undone by removing the directory.
    pub fn new(directory: PathBuf, limit_bytes: u64) -> Self {
        Store {
            directory,
            limit_bytes,
            bytes: 0,
            own_bytes: 0,
            processes: BTreeMap::new(),
        }
    }

    /// Takes in all pages of a stream. Blocks.
    ///
    /// # Errors
    /// If the stream is none or breaks off, if there is no room, and if a file fails. What has come before
    /// stays.
    pub fn feed(&mut self, reader: &mut impl Read) -> Result<(), StoreError> {
        let mut buffer = Vec::new();
        while let Some(run) = stream::read(reader, &mut buffer)? {
            self.take(&run)?;
        }
        Ok(())
    }

    fn take(&mut self, run: &Run<'_>) -> Result<(), StoreError> {
        if !self.processes.contains_key(&run.process) {
            if self.processes.len() == MOST_PROCESSES {
                return Err(StoreError::Processes);
            }
            let pages = Pages::create(&path_of(&self.directory, run.process))?;
            self.processes.insert(run.process, pages);
        }
        let pages = self.processes.get_mut(&run.process).expect("it is there");
        let range = run.address..run.address + u64::from(run.pages) * PAGE_BYTES as u64;
        let (before, own_before) = (pages.content.bytes(), pages.own_bytes());
        match run.content {
            Some(_) => pages.content.insert(range.clone()),
            None => pages.content.remove(range.clone()),
        }
        pages.known.insert(range.clone());
        self.bytes = self.bytes - before + pages.content.bytes();
        self.own_bytes = self.own_bytes - own_before + pages.own_bytes();
        // Before anything is written. Nobody restores from a store that was full.
        if self.bytes + self.own_bytes > self.limit_bytes {
            return Err(StoreError::Full(self.limit_bytes));
        }
        match run.content {
            Some(content) => pages.file.write_all_at(content, run.address)?,
            None => forget(&pages.file, &range)?,
        }
        Ok(())
    }

    /// Bytes of the pages in it that are not zero.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Proves that every page which the images in this directory leave to a pager has come. Returns how many
    /// bytes that are; 0 if the images are complete in themselves. Blocks.
    ///
    /// # Errors
    /// Names the first page that has not come.
    pub fn prove(&self, images: &Path) -> Result<u64, ProofError> {
        let nothing = PageSet::default();
        let mut bytes = 0;
        for (process, ranges) in images::lazy(images)? {
            let known = self.processes.get(&process).map_or(&nothing, |p| &p.known);
            for range in ranges {
                if let Some(address) = known.first_missing(&range) {
                    return Err(ProofError::Missing { process, address });
                }
                bytes += range.end - range.start;
            }
        }
        Ok(bytes)
    }
}

impl Pages {
    fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        // Readable by root only, like any memory.
        options.write(true).create_new(true).mode(0o600);
        Ok(Pages {
            file: options.open(path)?,
            known: PageSet::default(),
            content: PageSet::default(),
        })
    }

    fn own_bytes(&self) -> u64 {
        self.known.own_bytes() + self.content.own_bytes()
    }
}

/// Makes a hole.
fn forget(file: &File, range: &Range<u64>) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let length = (range.end - range.start) as i64;
    Ok(fallocate(file, flags, range.start as i64, length)?)
}

/// The pages of one process, for the pager.
#[derive(Debug)]
pub(crate) struct Contents {
    /// `None` if all its pages are zero.
    file: Option<File>,
}

impl Contents {
    /// Opens what the store in this directory has of the process.
    pub(crate) fn open(directory: &Path, process: u32) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        match options
            .read(true)
            .write(true)
            .open(path_of(directory, process))
        {
            Ok(file) => Ok(Contents { file: Some(file) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Contents { file: None }),
            Err(error) => Err(error),
        }
    }

    /// The first part of the range whose pages are not zero, if there is one.
    pub(crate) fn next_content(&self, range: &Range<u64>) -> io::Result<Option<Range<u64>>> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let Some(start) = seek(file, range.start, Whence::SeekData)? else {
            return Ok(None);
        };
        if start >= range.end {
            return Ok(None);
        }
        let end = seek(file, start, Whence::SeekHole)?.unwrap_or(range.end);
        Ok(Some(start..end.min(range.end)))
    }

    /// Reads pages from this address on.
    pub(crate) fn read(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        match &self.file {
            Some(file) => file.read_exact_at(buffer, address),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Gives the memory of pages back that nobody will read again.
    pub(crate) fn forget(&self, range: &Range<u64>) -> io::Result<()> {
        self.file
            .as_ref()
            .map_or(Ok(()), |file| forget(file, range))
    }
}

fn seek(file: &File, from: u64, whence: Whence) -> io::Result<Option<u64>> {
    match lseek64(file.as_fd(), from as i64, whence) {
        Ok(at) => Ok(Some(at as u64)),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0x7f12_3456_7000;
    const PAGE: u64 = PAGE_BYTES as u64;

    fn run(process: u32, address: u64, pages: u32, byte: u8) -> Vec<u8> {
        let content = (byte != 0).then(|| vec![byte; pages as usize * PAGE_BYTES]);
        let mut bytes = Vec::new();
        let run = Run {
            process,
            address,
            pages,
            content: content.as_deref(),
        };
        stream::write(&run, &mut bytes).unwrap();
        bytes
    }

    /// In memory, as in production.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    #[test]
    fn a_page_that_comes_again_replaces_the_one_before() {
        let dir = directory();
        let mut store = Store::new(dir.path().to_owned(), 1 << 20);
        let mut stream = run(7, AT, 3, 1);
        stream.extend(run(7, AT + PAGE, 1, 2));
        stream.extend(run(7, AT + 2 * PAGE, 1, 0));
        stream.extend(run(8, AT, 1 << 20, 0));
        store.feed(&mut stream.as_slice()).unwrap();
        assert_eq!(store.bytes(), 2 * PAGE);

        let contents = Contents::open(dir.path(), 7).unwrap();
        let all = AT - PAGE..AT + 9 * PAGE;
        let found = contents.next_content(&all).unwrap();
        assert_eq!(found, Some(AT..AT + 2 * PAGE));
        let mut buffer = vec![0; 2 * PAGE_BYTES];
        contents.read(AT, &mut buffer).unwrap();
        assert!(buffer[..PAGE_BYTES].iter().all(|byte| *byte == 1));
        assert!(buffer[PAGE_BYTES..].iter().all(|byte| *byte == 2));
        contents.forget(&(AT..AT + PAGE)).unwrap();
        let found = contents.next_content(&all).unwrap();
        assert_eq!(found, Some(AT + PAGE..AT + 2 * PAGE));
        for process in [8, 9] {
            let contents = Contents::open(dir.path(), process).unwrap();
            assert_eq!(contents.next_content(&all).unwrap(), None);
        }
    }

    #[test]
    fn it_takes_no_more_than_its_limit() {
        let dir = directory();
        // Four pages, and a little to know so.
        let mut store = Store::new(dir.path().to_owned(), 4 * PAGE + 200);
        store.feed(&mut run(7, AT, 4, 1).as_slice()).unwrap();
        // The same again, and zero pages.
        store.feed(&mut run(7, AT, 4, 2).as_slice()).unwrap();
        store.feed(&mut run(7, 0, 1 << 30, 0).as_slice()).unwrap();
        let full = store.feed(&mut run(8, AT, 1, 1).as_slice());
        assert!(matches!(full, Err(StoreError::Full(_))));
    }

    #[test]
    fn a_stream_of_gaps_does_not_fill_the_memory() {
        let dir = directory();
        let mut store = Store::new(dir.path().to_owned(), 1 << 20);
        let gaps: Vec<u8> = (0..1 << 17)
            .flat_map(|number| run(7, number * 2 * PAGE, 1, 0))
            .collect();
        let full = store.feed(&mut gaps.as_slice());
        assert!(matches!(full, Err(StoreError::Full(_))));
        assert!(store.processes[&7].known.bytes() < 1 << 28);
    }

    #[test]
    fn a_stream_that_breaks_off_is_an_error() {
        let dir = directory();
        let mut store = Store::new(dir.path().to_owned(), 1 << 20);
        let stream = run(7, AT, 1, 1);
        let broken = store.feed(&mut &stream[..stream.len() - 1]);
        assert!(matches!(broken, Err(StoreError::Io(_))));
    }

    #[test]
    fn the_first_page_that_did_not_come_is_named() {
        let (dir, images) = (directory(), tempfile::tempdir().unwrap());
        let mut store = Store::new(dir.path().to_owned(), 1 << 20);
        // One entry of three lazy pages.
        let mut image = Vec::new();
        for number in [0x5456_4319_u32, 0x5608_4025] {
            image.extend(number.to_le_bytes());
        }
        let mut entry = vec![1 << 3];
        crate::protobuf::write_varint(&mut entry, AT);
        entry.extend([2 << 3, 3, 4 << 3, 2]);
        for entry in [vec![1 << 3, 1], entry] {
            image.extend((entry.len() as u32).to_le_bytes());
            image.extend(entry);
        }
        std::fs::write(images.path().join("pagemap-7.img"), image).unwrap();

        let missing = |store: &Store| match store.prove(images.path()) {
            Err(ProofError::Missing {
                process: 7,
                address,
            }) => Some(address),
            Ok(_) => None,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(missing(&store), Some(AT));
        store.feed(&mut run(8, AT, 3, 1).as_slice()).unwrap();
        store.feed(&mut run(7, AT, 1, 1).as_slice()).unwrap();
        assert_eq!(missing(&store), Some(AT + PAGE));
        store
            .feed(&mut run(7, AT + 2 * PAGE, 1, 1).as_slice())
            .unwrap();
        assert_eq!(missing(&store), Some(AT + PAGE));
        store.feed(&mut run(7, AT + PAGE, 1, 0).as_slice()).unwrap();
        assert_eq!(store.prove(images.path()).unwrap(), 3 * PAGE);
    }
}
