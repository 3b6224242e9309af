//! Puts a tree's entries in place.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, symlinkat};
use tar::{Entry, EntryType, Header};

use super::beneath::{Beneath, hold, path_in, write_held};
use super::contents::write_pieces;
use super::records::{Records, travels};
use super::{ONE_FILE, directory_of, invalid};

/// Unpacks entries below a directory; nothing outside of it can be reached, whatever the entries'
/// paths and whatever symbolic links stand there.
pub struct Unpacker {
    root: Beneath,
    /// If it is for one file: its name.
    file: Option<OsString>,
    /// Directories' times, set at the end: creating their entries changes them.
    times: Vec<(PathBuf, TimeSpec)>,
    /// Names of attributes that the file system here does not take.
    untaken: BTreeSet<OsString>,
}

impl Unpacker {
    /// Unpacks below `root`, which exists.
    pub fn new(root: &Path) -> io::Result<Self> {
        Ok(Unpacker {
            root: Beneath::new(root)?,
            file: None,
            times: Vec::new(),
            untaken: BTreeSet::new(),
        })
    }

    /// Unpacks to the one file at `path`, which exists, and stays the same inode.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut unpacker = Self::new(directory_of(path)?)?;
        unpacker.file = path.file_name().map(OsStr::to_owned);
        Ok(unpacker)
    }

    /// Puts `entry` at `relative`, with what its `records` say. `link` is where a symbolic link leads to, or
    /// the other name below this root that a hard link has.
    pub(crate) fn entry<R: Read>(
        &mut self,
        relative: &Path,
        link: &OsStr,
        records: &Records,
        entry: &mut Entry<R>,
    ) -> io::Result<()> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", relative.display()));
        match self.file.clone() {
            Some(name) => self.content(relative, &name, records, entry),
            None => self.place(relative, link, records, entry),
        }
        .map_err(named)
    }

    /// Replaces the content of the file `name`.
    fn content<R: Read>(
        &mut self,
        relative: &Path,
        name: &OsStr,
        records: &Records,
        entry: &mut Entry<R>,
    ) -> io::Result<()> {
        let header = entry.header().clone();
        let regular = header.entry_type() == EntryType::Regular && !records.whiteout;
        if relative != Path::new(ONE_FILE) || !regular {
            return Err(invalid("not the one file"));
        }
        let root = self.root.root().try_clone()?;
        if records.patch {
            patch(&root, name, header.entry_type(), records, entry)?;
        } else {
            let flags = OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            let mut file = File::from(self.root.open(Path::new(name), flags)?);
            write(entry, records, &mut file)?;
        }
        let mode = Mode::from_bits_truncate(header.mode()? & 0o7777);
        self.finish_file(&root, name, &header, mode, records)
    }

    fn place<R: Read>(
        &mut self,
        relative: &Path,
        link: &OsStr,
        records: &Records,
        entry: &mut Entry<R>,
    ) -> io::Result<()> {
        let header = entry.header().clone();
        let mode = Mode::from_bits_truncate(header.mode()? & 0o7777);
        let device = match header.entry_type() {
            EntryType::Char | EntryType::Block => libc::makedev(
                header.device_major()?.unwrap_or(0),
                header.device_minor()?.unwrap_or(0),
            ),
            _ => 0,
        };
        if relative.as_os_str().is_empty() {
            return self.root_entry(&header, mode, records);
        }
        let (parent, name) = self.parent(relative)?;
        let at = path_in(&parent, name);
        let existing = fs::symlink_metadata(&at).ok();

        if header.entry_type() == EntryType::Directory {
            if existing.as_ref().is_some_and(|e| !e.is_dir()) {
                remove(&at)?;
            } else if existing.is_some() && records.opaque {
                empty(&at)?;
            }
            if !existing.is_some_and(|e| e.is_dir()) {
                mkdirat(&parent, name, Mode::S_IRWXU)?;
            }
            self.remember(relative, records);
            return self.attributes(&parent, name, &header, mode, records);
        }
        if records.patch {
            patch(&parent, name, header.entry_type(), records, entry)?;
            return self.finish_file(&parent, name, &header, mode, records);
        }
        if existing.is_some() {
            remove(&at)?;
        }
        if records.whiteout {
            return Ok(());
        }
        match header.entry_type() {
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let kind = match header.entry_type() {
                    EntryType::Char => SFlag::S_IFCHR,
                    EntryType::Block => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                mknodat(&parent, name, kind, mode, device)?;
            }
            EntryType::Regular => {
                let file = nix::fcntl::openat(
                    &parent,
                    name,
                    OFlag::O_WRONLY
                        | OFlag::O_CREAT
                        | OFlag::O_EXCL
                        | OFlag::O_NOFOLLOW
                        | OFlag::O_CLOEXEC,
                    Mode::S_IRUSR | Mode::S_IWUSR,
                )?;
                write(entry, records, &mut File::from(file))?;
            }
            EntryType::Symlink => {
                symlinkat(link, &parent, name)?;
            }
            EntryType::Link => {
                let (target_parent, target_name) = self.parent(Path::new(link))?;
                // The inode's attributes came with its first name.
                return Ok(linkat(
                    &target_parent,
                    target_name,
                    &parent,
                    name,
                    AtFlags::empty(),
                )?);
            }
            other => return Err(invalid(format!("unexpected entry type {other:?}"))),
        }
        self.finish_file(&parent, name, &header, mode, records)
    }

    /// What is no directory is there: sets everything else of it.
    fn finish_file(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        header: &Header,
        mode: Mode,
        records: &Records,
    ) -> io::Result<()> {
        self.attributes(parent, name, header, mode, records)?;
        if let Some(mtime) = &records.mtime {
            utimensat(parent, name, mtime, mtime, UtimensatFlags::NoFollowSymlink)?;
        }
        Ok(())
    }

    /// A directory's time is for the end.
    fn remember(&mut self, relative: &Path, records: &Records) {
        if let Some(mtime) = records.mtime {
            self.times.push((relative.to_owned(), mtime));
        }
    }

    fn root_entry(&mut self, header: &Header, mode: Mode, records: &Records) -> io::Result<()> {
        if records.opaque {
            empty(&path_in(self.root.root(), OsStr::new(".")))?;
        }
        self.remember(Path::new("."), records);
        let root = self.root.root().try_clone()?;
        self.attributes(&root, OsStr::new("."), header, mode, records)
    }

    fn attributes(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        header: &Header,
        mode: Mode,
        records: &Records,
    ) -> io::Result<()> {
        let untaken = attributes(parent, name, header, mode, records)?;
        self.untaken.extend(untaken);
        Ok(())
    }

    /// Opens the directory that holds `relative`, without following any symbolic link.
    fn parent<'p>(&self, relative: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let name = match relative.components().next_back() {
            Some(Component::Normal(name)) => name,
            _ => return Err(invalid("not a relative path")),
        };
        let parent = relative.parent().unwrap_or(Path::new(""));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        Ok((self.root.open(parent, flags)?, name))
    }

    /// Sets the directories' times. Call once, after the last entry. Returns the names of extended
    /// attributes that some files are without, because the file system here does not take them.
    pub fn finish(self) -> io::Result<BTreeSet<OsString>> {
        for (relative, mtime) in self.times.iter().rev() {
            // A directory may have been replaced by a later entry.
            if relative == Path::new(".") {
                utimensat(
                    self.root.root(),
                    ".",
                    mtime,
                    mtime,
                    UtimensatFlags::NoFollowSymlink,
                )?;
            } else if let Ok((parent, name)) = self.parent(relative) {
                let _ = utimensat(&parent, name, mtime, mtime, UtimensatFlags::NoFollowSymlink);
            }
        }
        Ok(self.untaken)
    }
}

/// Changes a file that an earlier pass has brought.
fn patch(
    parent: &OwnedFd,
    name: &OsStr,
    entry_type: EntryType,
    records: &Records,
    pieces: impl Read,
) -> io::Result<()> {
    let held = hold(parent, name)?;
    match records.size {
        Some(size) if entry_type == EntryType::Regular && held.metadata()?.is_file() => {
            write_pieces(pieces, &mut write_held(&held)?, size)
        }
        _ => Err(invalid("a change of what is no file")),
    }
}

/// Writes the content of `entry`, with its holes.
fn write<R: Read>(entry: &mut Entry<R>, records: &Records, file: &mut File) -> io::Result<()> {
    match records.size {
        Some(size) => write_pieces(entry, file, size),
        None => io::copy(entry, file).map(drop),
    }
}

/// Owner first (it clears set-id bits and capabilities), then mode, then extended attributes. Those that it
/// should not have go: a directory that was here already has them of an earlier pass, and what is made in
/// one may inherit them (acl(5), "OBJECT CREATION AND DEFAULT ACLs"). Returns the names of those that the
/// file system does not have.
fn attributes(
    parent: &OwnedFd,
    name: &OsStr,
    header: &Header,
    mode: Mode,
    records: &Records,
) -> io::Result<Vec<OsString>> {
    let mut untaken = Vec::new();
    let id = |n: u64| u32::try_from(n).map_err(invalid);
    fchownat(
        parent,
        name,
        Some(Uid::from_raw(id(header.uid()?)?)),
        Some(Gid::from_raw(id(header.gid()?)?)),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    let at = path_in(parent, name);
    for key in xattr::list(&at)? {
        if travels(&key) && !records.xattrs.iter().any(|(wanted, _)| *wanted == key) {
            remove_attribute(&at, &key)?;
        }
    }
    if header.entry_type() != EntryType::Symlink {
        fs::set_permissions(
            &at,
            std::os::unix::fs::PermissionsExt::from_mode(mode.bits()),
        )?;
    }
    for (key, value) in &records.xattrs {
        match xattr::set(&at, key, value) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                untaken.push(key.clone())
            }
            set => set?,
        }
    }
    Ok(untaken)
}

/// Removes an extended attribute, if it can be. Some are listed that have no value of their own.
fn remove_attribute(at: &Path, name: &OsStr) -> io::Result<()> {
    match xattr::remove(at, name) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(()),
        removed => removed,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        remove(&entry?.path())?;
    }
    Ok(())
}
