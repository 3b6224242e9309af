//! Writes a tree as tar entries.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{OFlag, readlinkat};
use nix::sys::time::TimeSpec;
use tar::{Builder, EntryType, Header};

use super::beneath::{Beneath, held_path, hold, path_in, read_held};
use super::blocks::Blocks;
use super::contents::Contents;
use super::index::{Index, Stamp};
use super::records::{Records, travels};
use super::traced::Traced;
use super::{ONE_FILE, Pass, Source, directory_of};
use crate::container::files::entries::write_link;

/// Attributes in which overlayfs keeps what an upper directory stands for
/// (Documentation/filesystems/overlayfs.rst).
const OVERLAY_XATTR: &[u8] = b"trusted.overlay.";

/// Writes `source` as entries below `prefix`; with the index of an earlier pass, only what has
/// changed since, names that are gone included. Returns the index of this pass.
///
/// Blocks for as long as the sink does, and for the file systems; not for what the container puts in the
/// place of its files.
pub fn pack<W: Write>(
    builder: &mut Builder<W>,
    prefix: &Path,
    source: Source,
    pass: Pass,
    since: Option<&Index>,
) -> io::Result<Index> {
    let (names, merged) = match source {
        Source::Plain(root) => (Beneath::new(root)?, None),
        Source::File(path) => (Beneath::new(directory_of(path)?)?, None),
        Source::Overlay { upper, merged } => (Beneath::new(upper)?, Some(Beneath::new(merged)?)),
    };
    let mut packer = Packer {
        builder,
        prefix,
        names,
        merged,
        links: HashMap::new(),
        traced: Traced::default(),
        pass,
        since,
        index: Index::default(),
    };
    match source {
        Source::File(path) => {
            let directory = packer.names.root().try_clone()?;
            let name = path.file_name().unwrap_or_default();
            let fresh = since.is_none();
            match packer.entry(Path::new(ONE_FILE), &directory, name, false, fresh)? {
                Found::Directory => Err(super::invalid("is a directory now")),
                Found::Packed | Found::Unchanged => Ok(packer.index),
            }
        }
        _ => packer.run(),
    }
}

struct Packer<'a, W: Write> {
    builder: &'a mut Builder<W>,
    prefix: &'a Path,
    names: Beneath,
    /// What an overlay shows, if the tree is one's upper directory.
    merged: Option<Beneath>,
    links: HashMap<(u64, u64), Linked>,
    traced: Traced,
    pass: Pass,
    since: Option<&'a Index>,
    index: Index,
}

/// A directory that is still to be packed.
struct Ahead {
    relative: PathBuf,
    /// It is read in the merged view: of a redirected directory the upper one holds only a part.
    merged: bool,
    /// All of it is packed, whatever the earlier pass has seen.
    fresh: bool,
}

/// The first name of a file that has several.
struct Linked {
    path: PathBuf,
    /// It is in this pass: the others have to be too, or they would be names of another file.
    packed: bool,
    /// As [`Stamp::settled`], which must be the same for all names.
    settled: bool,
}

/// What was packed for a name that is no directory.
struct Packed {
    /// A change of it will be seen by its time.
    traced: bool,
    /// Of a large file: what was sent.
    sent: Option<Blocks>,
}

impl Packed {
    const SMALL: Packed = Packed {
        traced: true,
        sent: None,
    };
}

/// What a name turned out to be.
enum Found {
    Directory,
    Packed,
    Unchanged,
}

impl<W: Write> Packer<'_, W> {
    /// Packs one directory after the other, each opened from the root: descriptors and stack do not grow
    /// with the depth of a tree that a container has made.
    fn run(mut self) -> io::Result<Index> {
        let mut ahead = vec![Ahead {
            relative: PathBuf::new(),
            merged: false,
            fresh: self.since.is_none(),
        }];
        while let Some(next) = ahead.pop() {
            match self.directory(&next) {
                Ok(below) => ahead.extend(below),
                Err(error) if self.may_skip(&next.relative, &error) => {}
                Err(error) => return Err(named(&next.relative, error)),
            }
        }
        self.vanished()?;
        Ok(self.index)
    }

    /// Whether what failed is for a later pass to pack.
    fn may_skip(&self, relative: &Path, error: &io::Error) -> bool {
        self.pass == Pass::Live && has_moved(error) && !relative.as_os_str().is_empty()
    }

    /// Packs a directory with the files in it. Returns the directories in it.
    fn directory(&mut self, at: &Ahead) -> io::Result<Vec<Ahead>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let relative = &at.relative;
        let mut tree = match &self.merged {
            Some(merged) if at.merged => merged,
            _ => &self.names,
        };
        let own = File::from(tree.open(relative, flags)?);
        let metadata = own.metadata()?;
        let known = self.since.and_then(|since| since.0.get(relative));
        let fresh = at.fresh || known.is_none_or(|stamp| stamp.inode != metadata.ino());
        let mut changed = fresh || known.is_none_or(|stamp| !stamp.is_still(&metadata));
        let stamp = Stamp::of(&metadata);

        let mut merged = at.merged;
        let mut opaque = self.merged.is_none() && relative.as_os_str().is_empty() && fresh;
        if let Some(view) = &self.merged
            && !at.merged
        {
            let marked = |name| xattr::get_deref(held_path(&own), name);
            if marked("trusted.overlay.redirect")?.is_some() {
                (tree, merged, opaque) = (view, true, true);
            }
            opaque |= marked("trusted.overlay.opaque")?.is_some_and(|v| v == b"y");
        }
        let listed: OwnedFd = match merged == at.merged {
            true => own.try_clone()?.into(),
            false => tree.open(relative, flags)?,
        };
        if fresh {
            self.directory_entry(relative, &own, &metadata, opaque)?;
        }

        let mut names = fs::read_dir(held_path(&listed))?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<Vec<OsString>>>()?;
        names.sort();
        let mut below = Vec::new();
        for name in names {
            let path = relative.join(&name);
            match self.entry(&path, &listed, &name, merged, fresh) {
                Ok(Found::Directory) => below.push(Ahead {
                    relative: path,
                    merged,
                    fresh,
                }),
                Ok(Found::Packed) => changed = true,
                Ok(Found::Unchanged) => {}
                Err(error) if self.may_skip(&path, &error) => {}
                Err(error) => return Err(named(&path, error)),
            }
        }
        // What was packed below it has changed its time at the destination.
        if changed && !fresh {
            self.directory_entry(relative, &own, &metadata, false)?;
        }
        self.index.0.insert(relative.clone(), stamp);
        below.reverse();
        Ok(below)
    }

    fn directory_entry(
        &mut self,
        relative: &Path,
        own: &File,
        metadata: &Metadata,
        opaque: bool,
    ) -> io::Result<()> {
        let mut header = header(metadata, EntryType::Directory);
        let records = Records {
            opaque,
            ..self.records(own, metadata)?
        };
        records.write(self.builder)?;
        let path = self.prefix.join(relative);
        self.builder.append_data(&mut header, path, io::empty())
    }

    /// Packs `name` in `directory` if it has changed.
    fn entry(
        &mut self,
        relative: &Path,
        directory: &OwnedFd,
        name: &OsStr,
        merged: bool,
        fresh: bool,
    ) -> io::Result<Found> {
        let metadata = fs::symlink_metadata(path_in(directory, name))?;
        let known = self.since.and_then(|since| since.0.get(relative));
        let still = !fresh && known.is_some_and(|known| known.is_still(&metadata));
        if still && !metadata.is_dir() && self.stays(relative, &metadata) {
            let mut stamp = Stamp::of(&metadata);
            stamp.sent = known.and_then(|known| known.sent.clone());
            self.index.0.insert(relative.to_owned(), stamp);
            return Ok(Found::Unchanged);
        }
        // From here on it is this one, whatever takes its place meanwhile.
        let held = hold(directory, name)?;
        let metadata = held.metadata()?;
        if metadata.is_dir() {
            return Ok(Found::Directory);
        }
        let mut stamp = Stamp::of(&metadata);
        // The other end has the file that it was sent, if this is still the same.
        let there = known.filter(|known| !fresh && known.inode == metadata.ino());
        let sent = there.and_then(|known| known.sent.clone());
        let packed = self.file(relative, &held, &metadata, merged, sent.as_deref())?;
        stamp.settled &= packed.traced;
        stamp.sent = packed.sent.map(Arc::new);
        if let Some(linked) = self.links.get_mut(&inode(&metadata)) {
            linked.settled &= stamp.settled;
            stamp.settled = linked.settled;
        }
        self.index.0.insert(relative.to_owned(), stamp);
        Ok(Found::Packed)
    }

    /// Whether the destination needs nothing of a file that has not changed.
    fn stays(&mut self, relative: &Path, metadata: &Metadata) -> bool {
        if metadata.nlink() == 1 {
            return true;
        }
        let first = self.links.entry(inode(metadata));
        let first = first.or_insert_with(|| Linked {
            path: self.prefix.join(relative),
            packed: false,
            settled: true,
        });
        !first.packed
    }

    /// Packs what is no directory, of a large file only what has changed since it was `sent`.
    fn file(
        &mut self,
        relative: &Path,
        held: &File,
        metadata: &Metadata,
        merged: bool,
        sent: Option<&Blocks>,
    ) -> io::Result<Packed> {
        let kind = metadata.file_type();
        let path = self.prefix.join(relative);
        if self.merged.is_some() && !merged && is_whiteout(held, metadata)? {
            self.whiteout(path)?;
            return Ok(Packed::SMALL);
        }
        if metadata.nlink() > 1 {
            if let Some(first) = self.links.get(&inode(metadata)) {
                let mut header = header(metadata, EntryType::Link);
                write_link(self.builder, &mut header, first.path.as_os_str().as_bytes())?;
                self.builder.append_data(&mut header, path, io::empty())?;
                return Ok(Packed::SMALL);
            }
            let first = Linked {
                path: path.clone(),
                packed: true,
                settled: true,
            };
            self.links.insert(inode(metadata), first);
        }
        let records = self.records(held, metadata)?;
        if kind.is_file() {
            return self.regular(relative, held, metadata, merged, sent, records);
        }
        let entry_type = if kind.is_symlink() {
            EntryType::Symlink
        } else if kind.is_char_device() {
            EntryType::Char
        } else if kind.is_block_device() {
            EntryType::Block
        } else if kind.is_fifo() {
            EntryType::Fifo
        } else {
            return Ok(Packed::SMALL);
        };
        let mut header = header(metadata, entry_type);
        records.write(self.builder)?;
        if kind.is_symlink() {
            let target = readlinkat(held, "")?;
            write_link(self.builder, &mut header, target.as_bytes())?;
        } else {
            header.set_device_major(libc::major(metadata.rdev()))?;
            header.set_device_minor(libc::minor(metadata.rdev()))?;
        }
        self.builder.append_data(&mut header, path, io::empty())?;
        Ok(Packed::SMALL)
    }

    fn regular(
        &mut self,
        relative: &Path,
        held: &File,
        metadata: &Metadata,
        merged: bool,
        sent: Option<&Blocks>,
        mut records: Records,
    ) -> io::Result<Packed> {
        let own = read_held(held)?;
        let mut traced = true;
        if self.pass == Pass::Live {
            // In the upper directory itself: an overlay may be one that syncs nothing.
            own.sync_data()?;
            traced = self.traced.holds(&own)?;
        }
        let contents = match &self.merged {
            // A metadata-only copy is empty in the upper directory.
            Some(view) if !merged => {
                let shown = File::from(view.open(relative, OFlag::O_PATH | OFlag::O_NOFOLLOW)?);
                match shown.metadata()?.is_file() {
                    true => read_held(&shown)?,
                    false => return Err(io::Error::from_raw_os_error(libc::ESTALE)),
                }
            }
            _ => own,
        };
        let mut contents = Contents::new(contents, self.pass, sent)?;
        let mut header = header(metadata, EntryType::Regular);
        header.set_size(contents.length());
        (records.size, records.patch) = (contents.size, contents.patch);
        records.write(self.builder)?;
        let path = self.prefix.join(relative);
        let written = self.builder.append_data(&mut header, path, &mut contents);
        // Whatever it is: half an entry cannot be left for a later pass.
        written.map_err(io::Error::other)?;
        Ok(Packed {
            traced,
            sent: contents.sent(),
        })
    }

    fn whiteout(&mut self, path: PathBuf) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        let records = Records {
            whiteout: true,
            ..Records::default()
        };
        records.write(self.builder)?;
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

    fn records(&self, held: &File, metadata: &Metadata) -> io::Result<Records> {
        let mut records = Records {
            mtime: Some(TimeSpec::new(metadata.mtime(), metadata.mtime_nsec())),
            ..Records::default()
        };
        let at = held_path(held);
        for name in xattr::list_deref(&at)? {
            // In a plain tree they are the container's, which may have overlays of its own.
            let is_overlays = self.merged.is_some() && name.as_bytes().starts_with(OVERLAY_XATTR);
            if is_overlays || !travels(&name) {
                continue;
            }
            if let Some(value) = xattr::get_deref(&at, &name)? {
                records.xattrs.push((name, value));
            }
        }
        Ok(records)
    }
}

/// Whether a name in an upper directory stands for one that is gone.
fn is_whiteout(held: &File, metadata: &Metadata) -> io::Result<bool> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(xattr::get_deref(held_path(held), "trusted.overlay.whiteout")?.is_some());
    }
    Ok(kind.is_char_device() && metadata.rdev() == 0)
}

fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
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

fn named(relative: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", relative.display()))
}

/// Whether a name that was there a moment ago is gone, or is something else now, or is about to be.
fn has_moved(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ELOOP | libc::ENOTDIR | libc::ESTALE | libc::EAGAIN)
    )
}
