//! Writes a tree as tar entries.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::index::{Index, Stamp};
use super::records::{OPAQUE, XATTR, travels};
use super::{Exactly, Pass, Source};

/// Writes `source` as entries below `prefix`; with the index of an earlier pass, only what has
/// changed since, names that are gone included. Returns the index of this pass.
pub fn pack<W: Write>(
    builder: &mut Builder<W>,
    prefix: &Path,
    source: Source,
    pass: Pass,
    since: Option<&Index>,
) -> io::Result<Index> {
    let (names, contents) = match source {
        Source::Plain(root) => (root, root),
        Source::Overlay { upper, merged } => (upper, merged),
    };
    let mut packer = Packer {
        builder,
        prefix,
        contents,
        links: HashMap::new(),
        pass,
        since,
        index: Index::default(),
    };
    let root = fs::symlink_metadata(names)?;
    let emptied = matches!(source, Source::Plain(_)) && since.is_none();
    packer.directory(Path::new(""), names, &root, emptied, since.is_none())?;
    packer.vanished()?;
    Ok(packer.index)
}

struct Packer<'a, W: Write> {
    builder: &'a mut Builder<W>,
    prefix: &'a Path,
    contents: &'a Path,
    links: HashMap<(u64, u64), PathBuf>,
    pass: Pass,
    since: Option<&'a Index>,
    index: Index,
}

impl<W: Write> Packer<'_, W> {
    /// Packs a directory with what is below it, all of it if it is `fresh`; says whether there was
    /// anything to pack.
    fn directory(
        &mut self,
        relative: &Path,
        names: &Path,
        metadata: &Metadata,
        opaque: bool,
        fresh: bool,
    ) -> io::Result<bool> {
        let here = names.join(relative);
        let known = self.since.and_then(|since| since.0.get(relative));
        let fresh = fresh || known.is_none_or(|stamp| stamp.inode != metadata.ino());
        let mut changed = fresh || known.is_none_or(|stamp| !stamp.is_still(metadata));
        self.index
            .0
            .insert(relative.to_owned(), Stamp::of(metadata));
        // Of a redirected directory the upper directory holds only part of the content.
        let redirected = xattr::get(&here, "trusted.overlay.redirect")?.is_some();
        let names = if redirected { self.contents } else { names };
        let opaque = opaque
            || fresh
                && (redirected
                    || xattr::get(&here, "trusted.overlay.opaque")?.is_some_and(|v| v == b"y"));
        if fresh {
            self.directory_entry(relative, &here, metadata, opaque)?;
        }

        let mut entries: Vec<_> = fs::read_dir(names.join(relative))?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            match self.entry(&relative.join(entry.file_name()), names, fresh) {
                Ok(packed) => changed |= packed,
                Err(error) if self.pass == Pass::Live && has_moved(&error) => {}
                Err(error) => return Err(error),
            }
        }
        // What was packed below it has changed its time at the destination.
        if changed && !fresh {
            self.directory_entry(relative, &here, metadata, false)?;
        }
        Ok(changed)
    }

    fn directory_entry(
        &mut self,
        relative: &Path,
        here: &Path,
        metadata: &Metadata,
        opaque: bool,
    ) -> io::Result<()> {
        let mut header = header(metadata, EntryType::Directory);
        self.extensions(here, metadata, opaque)?;
        let path = self.prefix.join(relative);
        self.builder.append_data(&mut header, path, io::empty())
    }

    fn entry(&mut self, relative: &Path, names: &Path, fresh: bool) -> io::Result<bool> {
        let here = names.join(relative);
        let metadata = fs::symlink_metadata(&here)?;
        if metadata.is_dir() {
            return self.directory(relative, names, &metadata, false, fresh);
        }
        let known = self.since.and_then(|since| since.0.get(relative));
        let changed = fresh || known.is_none_or(|stamp| !stamp.is_still(&metadata));
        self.index
            .0
            .insert(relative.to_owned(), Stamp::of(&metadata));
        if changed {
            self.file(relative, &here, &metadata)?;
        }
        Ok(changed)
    }

    /// Packs what is no directory.
    fn file(&mut self, relative: &Path, here: &Path, metadata: &Metadata) -> io::Result<()> {
        let kind = metadata.file_type();
        let path = self.prefix.join(relative);
        if kind.is_file() && xattr::get(here, "trusted.overlay.whiteout")?.is_some() {
            return self.whiteout(path);
        }
        if metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&inode) {
                let mut header = header(metadata, EntryType::Link);
                return self.builder.append_link(&mut header, path, first);
            }
            self.links.insert(inode, path.clone());
        }
        if kind.is_file() {
            let file = fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(self.contents.join(relative))?;
            if self.pass == Pass::Live {
                file.sync_data()?;
            }
            // Through the merged view: a metadata-only copy is empty in the upper directory.
            let size = file.metadata()?.len();
            let mut header = header(metadata, EntryType::Regular);
            header.set_size(size);
            self.extensions(here, metadata, false)?;
            let data = Exactly {
                file,
                left: size,
                pass: self.pass,
            };
            return self.builder.append_data(&mut header, path, data);
        }
        if kind.is_symlink() {
            let mut header = header(metadata, EntryType::Symlink);
            self.extensions(here, metadata, false)?;
            return self
                .builder
                .append_link(&mut header, path, fs::read_link(here)?);
        }
        let entry_type = if kind.is_char_device() {
            EntryType::Char
        } else if kind.is_block_device() {
            EntryType::Block
        } else if kind.is_fifo() {
            EntryType::Fifo
        } else {
            return Ok(());
        };
        let mut header = header(metadata, entry_type);
        header.set_device_major(libc::major(metadata.rdev()))?;
        header.set_device_minor(libc::minor(metadata.rdev()))?;
        self.extensions(here, metadata, false)?;
        self.builder.append_data(&mut header, path, io::empty())
    }

    fn whiteout(&mut self, path: PathBuf) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Char);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header.set_device_major(0)?;
        header.set_device_minor(0)?;
        self.builder.append_data(&mut header, path, io::empty())
    }

    /// Packs the absence of names that the earlier pass had seen.
    fn vanished(&mut self) -> io::Result<()> {
        let Some(since) = self.since else {
            return Ok(());
        };
        for path in since.0.keys() {
            let in_directory = path
                .parent()
                .and_then(|parent| self.index.0.get(parent))
                .is_some_and(|parent| parent.is_directory);
            if in_directory && !self.index.0.contains_key(path) {
                self.whiteout(self.prefix.join(path))?;
            }
        }
        Ok(())
    }

    fn extensions(&mut self, here: &Path, metadata: &Metadata, opaque: bool) -> io::Result<()> {
        let mtime = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
        let mut records = vec![("mtime".to_owned(), mtime.into_bytes())];
        if opaque {
            records.push((OPAQUE.to_owned(), b"1".to_vec()));
        }
        for name in xattr::list(here)? {
            let Some(text) = name.to_str().filter(|name| travels(name)) else {
                continue;
            };
            if let Some(value) = xattr::get(here, &name)? {
                records.push((format!("{XATTR}{text}"), value));
            }
        }
        self.builder
            .append_pax_extensions(records.iter().map(|(k, v)| (k.as_str(), v.as_slice())))
    }
}

fn header(metadata: &Metadata, entry_type: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(entry_type);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(metadata.mtime().max(0) as u64);
    header.set_size(0);
    header
}

/// Whether a name that was there a moment ago is gone, or is something else now.
fn has_moved(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ELOOP | libc::ENOTDIR | libc::ESTALE)
    )
}
