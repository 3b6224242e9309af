//! Which pages CRIU's images leave to a pager.
//!
//! A `pagemap-N.img` lists the pages of process N (criu/pagemap.c, images/pagemap.proto). Those that are
//! lazy and not present were left out of the images by a dump with `lazy-pages`. CRIU 4.2 counts the
//! pages of an entry in a field of its own; before, in what is now `compat_nr_pages`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::PAGE_BYTES;
use crate::protobuf::{Value, fields};

/// `IMG_COMMON_MAGIC` and `PAGEMAP_MAGIC` in criu/include/magic.h.
const MAGIC: [u32; 2] = [0x5456_4319, 0x5608_4025];

/// Longest plausible entry, in bytes: five numbers.
const LONGEST: u32 = 128;

/// Flags of an entry: criu/include/pagemap.h.
const PARENT: u64 = 1;
const LAZY: u64 = 1 << 1;
const PRESENT: u64 = 1 << 2;

/// Numbers of the fields of `pagemap_entry`.
const ADDRESS: u64 = 1;
const PAGES_BEFORE_4_2: u64 = 2;
const IN_PARENT: u64 = 3;
const FLAGS: u64 = 4;
const PAGES: u64 = 5;

/// The images cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// A file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not in the format of CRIU's images.
    #[error("{}: not a list of a process's pages", .0.display())]
    Format(PathBuf),
}

/// The pages of each process that the images in this directory leave to a pager, by the process's number in
/// its pid namespace. Blocks.
///
/// # Errors
/// If an image cannot be read or is not one.
pub fn lazy(images: &Path) -> Result<BTreeMap<u32, Vec<Range<u64>>>, ImagesError> {
    let failed = |source| ImagesError::Io {
        path: images.to_owned(),
        source,
    };
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(images).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(process) = name.to_str().and_then(process_of) {
            found.insert(process, lazy_of(images, process)?);
        }
    }
    Ok(found)
}

/// The pages of one process that the images in this directory leave to a pager, in the order of their
/// addresses. Blocks.
///
/// # Errors
/// If its image cannot be read or is not one.
pub fn lazy_of(images: &Path, process: u32) -> Result<Vec<Range<u64>>, ImagesError> {
    let path = images.join(format!("pagemap-{process}.img"));
    let read = File::open(&path).and_then(|image| lazy_in(&mut BufReader::new(image)));
    read.map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ImagesError::Format(path),
        _ => ImagesError::Io { path, source },
    })
}

/// The number in `pagemap-N.img`; others are lists of shared memory.
fn process_of(name: &str) -> Option<u32> {
    let number = name.strip_prefix("pagemap-")?.strip_suffix(".img")?;
    number.parse().ok()
}

/// The same as [`lazy_of`], of an image's bytes.
///
/// # Errors
/// `InvalidData` and `UnexpectedEof` if it is not an image; those of the reader.
pub fn lazy_in(image: &mut impl Read) -> io::Result<Vec<Range<u64>>> {
    for magic in MAGIC {
        if number(image)? != Some(magic) {
            return Err(invalid());
        }
    }
    // The first says in which file the pages are.
    entry(image)?.ok_or_else(invalid)?;
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut before = 0;
    while let Some(entry) = entry(image)? {
        let (range, flags) = pages(&entry).ok_or_else(invalid)?;
        if range.start < before {
            return Err(invalid());
        }
        before = range.end;
        if flags & (PARENT | LAZY | PRESENT) != LAZY {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => found.push(range),
        }
    }
    Ok(found)
}

/// Where the pages of an entry are, and its flags.
fn pages(entry: &[u8]) -> Option<(Range<u64>, u64)> {
    let fields = fields(entry)?;
    let of = |number: u64| {
        let mut found = fields.iter().filter(|field| field.number == number);
        match found.next_back()?.value {
            Value::Number(value) => Some(value),
            Value::Bytes(_) => None,
        }
    };
    let start = of(ADDRESS)?;
    let pages = of(PAGES).or_else(|| of(PAGES_BEFORE_4_2))?;
    let end = start.checked_add(pages.checked_mul(PAGE_BYTES as u64)?)?;
    let flags = of(FLAGS).unwrap_or(if of(IN_PARENT).is_some_and(|value| value != 0) {
        PARENT
    } else {
        PRESENT
    });
    (start.is_multiple_of(PAGE_BYTES as u64) && pages > 0).then_some((start..end, flags))
}

fn entry(image: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let Some(length) = number(image)? else {
        return Ok(None);
    };
    if length > LONGEST {
        return Err(invalid());
    }
    let mut entry = vec![0; length as usize];
    image.read_exact(&mut entry)?;
    Ok(Some(entry))
}

/// The next four bytes as a number; `None` at the end.
fn number(image: &mut impl Read) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    let mut first = image.take(1);
    if first.read(&mut bytes[..1])? == 0 {
        return Ok(None);
    }
    image.read_exact(&mut bytes[1..])?;
    Ok(Some(u32::from_le_bytes(bytes)))
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::write_varint;

    fn image(entries: &[&[(u64, u64)]]) -> Vec<u8> {
        let mut image: Vec<u8> = MAGIC.iter().flat_map(|m| m.to_le_bytes()).collect();
        for entry in [&[(1, 1)][..]].iter().chain(entries) {
            let mut bytes = Vec::new();
            for (field, value) in *entry {
                write_varint(&mut bytes, field << 3);
                write_varint(&mut bytes, *value);
            }
            image.extend((bytes.len() as u32).to_le_bytes());
            image.extend(bytes);
        }
        image
    }

    const AT: u64 = 0x7f00_0000_0000;

    #[test]
    fn lazy_pages_are_found_in_the_formats_of_both_versions() {
        for pages in [
            // 4.1, and 4.2 with what it says for older ones.
            &[(PAGES_BEFORE_4_2, 2)][..],
            &[(PAGES_BEFORE_4_2, 0), (PAGES, 2)],
        ] {
            let entry = |at: u64, flags: u64| [&[(ADDRESS, at)], pages, &[(FLAGS, flags)]].concat();
            let entries = [
                entry(0x1000, PRESENT),
                entry(0x4000, LAZY),
                entry(0x6000, LAZY),
                entry(0x9000, LAZY | PRESENT),
                entry(0xb000, PARENT),
                entry(AT, LAZY),
            ];
            let entries: Vec<_> = entries.iter().map(Vec::as_slice).collect();
            let found = lazy_in(&mut image(&entries).as_slice()).unwrap();
            assert_eq!(found, [0x4000..0x8000, AT..AT + 0x2000]);
        }
    }

    #[test]
    fn no_flags_mean_present() {
        let bytes = image(&[&[(ADDRESS, 0x1000), (PAGES, 2)]]);
        assert_eq!(lazy_in(&mut bytes.as_slice()).unwrap(), []);
    }

    #[test]
    fn what_is_no_image_is_an_error() {
        let good = image(&[&[(ADDRESS, 0x1000), (PAGES, 2), (FLAGS, LAZY)]]);
        let found = lazy_in(&mut good.as_slice()).unwrap();
        assert_eq!(found, vec![0x1000..0x3000; 1]);
        for cut in 0..good.len() {
            // An image may end after any of its entries, the first included.
            if lazy_in(&mut &good[..cut]).is_ok() {
                assert_eq!(cut, image(&[]).len());
            }
        }
        let backwards: [&[(u64, u64)]; 2] = [
            &[(ADDRESS, 0x4000), (PAGES, 2), (FLAGS, LAZY)],
            &[(ADDRESS, 0x5000), (PAGES, 2), (FLAGS, LAZY)],
        ];
        for entries in [
            &[&[(ADDRESS, 0x1001), (PAGES, 2)][..]][..],
            &[&[(ADDRESS, 0x1000)]],
            &[&[(ADDRESS, 0x1000), (PAGES, 0)]],
            &[&[(ADDRESS, 0x1000), (PAGES, u64::MAX / 4)]],
            &backwards,
        ] {
            let error = lazy_in(&mut image(entries).as_slice()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn images_of_shared_memory_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = image(&[&[(ADDRESS, 0x1000), (PAGES, 2), (FLAGS, LAZY)]]);
        for name in ["pagemap-7.img", "pagemap-shmem-7.img", "pages-7.img"] {
            std::fs::write(dir.path().join(name), &bytes).unwrap();
        }
        let found = lazy(dir.path()).unwrap();
        assert_eq!(found, BTreeMap::from([(7, vec![0x1000..0x3000; 1])]));
        std::fs::write(dir.path().join("pagemap-8.img"), "no image").unwrap();
        assert!(matches!(lazy(dir.path()), Err(ImagesError::Format(_))));
    }
}
