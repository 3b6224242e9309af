//! Puts a tree's entries in place.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, symlinkat};
use tar::{Entry, EntryType, Header};

use super::records::{Records, invalid};

/// Unpacks entries below a directory; nothing outside of it can be reached, whatever the entries'
/// paths and whatever symbolic links stand there.
pub struct Unpacker {
    root: OwnedFd,
    /// Directories' times, set at the end: creating their entries changes them.
    times: Vec<(PathBuf, TimeSpec)>,
    /// Names of attributes that the file system here does not take.
    untaken: BTreeSet<OsString>,
}

impl Unpacker {
    /// Unpacks below `root`, which exists.
    pub fn new(root: &Path) -> io::Result<Self> {
        Ok(Unpacker {
            root: File::open(root)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", root.display())))?
                .into(),
            times: Vec::new(),
            untaken: BTreeSet::new(),
        })
    }

    /// Puts `entry` at `relative`; a hard link's target is given by `link`.
    pub fn entry<R: Read>(
        &mut self,
        relative: &Path,
        link: Option<&Path>,
        entry: &mut Entry<R>,
    ) -> io::Result<()> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", relative.display()));
        self.place(relative, link, entry).map_err(named)
    }

    fn place<R: Read>(
        &mut self,
        relative: &Path,
        link: Option<&Path>,
        entry: &mut Entry<R>,
    ) -> io::Result<()> {
        let records = Records::read(entry)?;
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
            return self.root_entry(&header, mode, &records);
        }
        let (parent, name) = self.parent(relative)?;
        let at = magic_path(&parent, name);
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
            self.times.push((relative.to_owned(), records.mtime));
            return self.attributes(&parent, name, &header, mode, &records);
        }
        if existing.is_some() {
            remove(&at)?;
        }
        match header.entry_type() {
            EntryType::Char if device == 0 => return Ok(()),
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
                io::copy(entry, &mut File::from(file))?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                symlinkat(OsStr::from_bytes(&target), &parent, name)?;
            }
            EntryType::Link => {
                let target = link.ok_or_else(|| invalid("a hard link leads nowhere"))?;
                let (target_parent, target_name) = self.parent(target)?;
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
        self.attributes(&parent, name, &header, mode, &records)?;
        Ok(utimensat(
            &parent,
            name,
            &records.mtime,
            &records.mtime,
            UtimensatFlags::NoFollowSymlink,
        )?)
    }

    fn root_entry(&mut self, header: &Header, mode: Mode, records: &Records) -> io::Result<()> {
        if records.opaque {
            empty(&magic_path(&self.root, OsStr::new(".")))?;
        }
        self.times.push((PathBuf::from("."), records.mtime));
        let root = self.root.try_clone()?;
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
        let parent = match relative.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok((openat2(self.root.as_fd(), parent, how)?, name))
    }

    /// Sets the directories' times. Call once, after the last entry. Returns the names of extended
    /// attributes that some files are without, because the file system here does not take them.
    pub fn finish(self) -> io::Result<BTreeSet<OsString>> {
        for (relative, mtime) in self.times.iter().rev() {
            // A directory may have been replaced by a later entry.
            if relative == Path::new(".") {
                utimensat(
                    &self.root,
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

/// Owner first (it clears set-id bits and capabilities), then mode, then extended attributes. Returns
/// the names of those that the file system does not have.
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
    let at = magic_path(parent, name);
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

/// A path to `name` in an open directory for calls that have no `…at` form (proc_pid_fd(5)).
fn magic_path(directory: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name)
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
