//! The entries of a stream, each with what its extension headers say of it, checked before it is used.
//!
//! A path comes from the entry's own header or from a long name before it (type `L`, as GNU tar writes it),
//! and from nowhere else: what an extended header may say is in [`super::tree`]'s records, and anything
//! else in it is an error. Nothing is read into memory before its size has been compared to a limit.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use tar::{Archive, Builder, Entry, EntryType, Header};

/// Most bytes of an extension header.
pub(crate) const MOST_EXTENSION: u64 = 1 << 20;

/// What comes before an entry that an ordinary tar header has no room for.
pub(super) struct Item<'a, 'e, R: Read> {
    pub(super) path: PathBuf,
    /// Where a link leads to; empty if the entry is none.
    pub(super) link: OsString,
    /// The content of an extended header, if there was one.
    pub(super) extended: Option<Vec<u8>>,
    pub(super) entry: &'a mut Entry<'e, R>,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    extended: Option<Vec<u8>>,
}

/// Calls `each` with every entry of the archive that `source` holds.
///
/// # Errors
/// Those of `each` and of the source, and if an extension header is too long, comes twice, or comes last.
pub(super) fn for_each<R: Read>(
    source: R,
    mut each: impl FnMut(Item<'_, '_, R>) -> io::Result<()>,
) -> io::Result<()> {
    let mut archive = Archive::new(source);
    let mut extensions = Extensions::default();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let place = match entry.header().entry_type() {
            EntryType::GNULongName => Some(&mut extensions.path),
            EntryType::GNULongLink => Some(&mut extensions.link),
            EntryType::XHeader => Some(&mut extensions.extended),
            _ => None,
        };
        if let Some(place) = place {
            let content = extension(&mut entry)?;
            if place.replace(content).is_some() {
                return Err(invalid("two extension headers of a kind"));
            }
            continue;
        }
        let Extensions {
            path,
            link,
            extended,
        } = std::mem::take(&mut extensions);
        let path = match path {
            Some(path) => without_zero(path),
            None => entry.header().path_bytes().into_owned(),
        };
        let link = match link {
            Some(link) => without_zero(link),
            None => entry.header().link_name_bytes().unwrap_or_default().into(),
        };
        each(Item {
            path: OsString::from_vec(path).into(),
            link: OsString::from_vec(link),
            extended,
            entry: &mut entry,
        })?;
    }
    let Extensions {
        path: None,
        link: None,
        extended: None,
    } = extensions
    else {
        return Err(invalid("an extension header without its entry"));
    };
    Ok(())
}

fn extension(entry: &mut Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    let size = entry.header().entry_size()?;
    if size > MOST_EXTENSION {
        return Err(invalid(format!("an extension header of {size} bytes")));
    }
    let mut content = Vec::with_capacity(size as usize);
    if entry.read_to_end(&mut content)? as u64 != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(content)
}

/// Long names end with a zero.
fn without_zero(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

/// Puts `target` into the header of a link, or before it if it is too long: byte by byte, while
/// [`Builder::append_link`] writes `a//b` as `a/b`.
pub(super) fn write_link<W: Write>(
    builder: &mut Builder<W>,
    header: &mut Header,
    target: &[u8],
) -> io::Result<()> {
    if header.set_link_name_literal(target).is_ok() {
        return Ok(());
    }
    let mut long = Header::new_gnu();
    long.set_entry_type(EntryType::GNULongLink);
    long.set_size(target.len() as u64 + 1);
    long.set_cksum();
    builder.append(&long, [target, b"\0"].concat().as_slice())
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says that it is longer than it is, if need be.
    fn header(kind: EntryType, size: u64) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_path("entry").unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn paths(archive: &[u8]) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for_each(archive, |item| {
            paths.push(item.path);
            Ok(())
        })?;
        Ok(paths)
    }

    #[test]
    fn extension_headers_have_a_limit_an_order_and_an_entry() {
        let small = [header(EntryType::XHeader, 5), [b'x'; 512].to_vec()].concat();
        let file = header(EntryType::Regular, 0);
        assert!(paths(&[&small[..], &file].concat()).is_ok());
        for kind in [
            EntryType::XHeader,
            EntryType::GNULongName,
            EntryType::GNULongLink,
        ] {
            let huge = header(kind, 100 << 30);
            assert!(paths(&[&huge[..], &[0; 4096]].concat()).is_err());
        }
        assert!(paths(&[&small[..], &small, &file].concat()).is_err());
        assert!(paths(&small).is_err());
    }

    #[test]
    fn an_extended_header_gives_no_path() {
        let record = b"20 path=log/elsewhere\n";
        let mut block = record.to_vec();
        block.resize(512, 0);
        let extended = header(EntryType::XHeader, record.len() as u64);
        let archive = [extended, block, header(EntryType::Regular, 0)].concat();
        assert_eq!(paths(&archive).unwrap(), [PathBuf::from("entry")]);
    }
}
