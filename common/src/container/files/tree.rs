//! A directory tree as tar entries, with everything a container can tell apart: owners, modes,
//! times to the nanosecond, extended attributes, hard links, device nodes, FIFOs, and for an
//! overlay what was deleted from its lower layers.
//!
//! Two records of our own ride in PAX headers: `LIVEMIGRATION.opaque` (empty this directory
//! first) and a character device 0/0, which is overlayfs' own notation for a deleted name
//! (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories"). Sockets are left
//! out: CRIU binds them anew.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, symlinkat};
use tar::{Builder, Entry, EntryType, Header};

const OPAQUE: &str = "LIVEMIGRATION.opaque";
const XATTR: &str = "SCHILY.xattr.";
const OVERLAY_XATTR: &str = "trusted.overlay.";

/// Attributes that each host gives by itself: where Podman mounts with `context=` the label of SELinux
/// cannot even be set (`selinux_inode_setxattr` in Linux' security/selinux/hooks.c), and the
/// measurements of IMA and EVM are signed with a key of the host's (evm_protected_xattrs).
const OF_THE_HOST: [&str; 3] = ["security.selinux", "security.ima", "security.evm"];

/// Whether the attribute `name` goes with its file.
fn travels(name: &str) -> bool {
    !name.starts_with(OVERLAY_XATTR) && !OF_THE_HOST.contains(&name)
}

/// What to pack.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A plain tree; unpacking makes the target equal to it.
    Plain(&'a Path),
    /// The changes that an overlay's `upper` directory holds; unpacking applies them to a target
    /// that shows the same lower layers. Contents are read through `merged`, which alone is right
    /// for metadata-only copies and redirected directories.
    Overlay {
        /// The upper directory.
        upper: &'a Path,
        /// The mounted overlay.
        merged: &'a Path,
    },
}

/// Whether anybody may write to a tree while it is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The container runs: what changes under our hands is sent again by a later pass.
    Live,
    /// Everything stands still; a change is an error.
    Frozen,
}

/// What a tree held when it was packed, to tell later what has changed since.
#[derive(Debug, Default)]
pub struct Index(HashMap<PathBuf, Stamp>);

#[derive(Debug)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: SystemTime,
    is_directory: bool,
    /// The next change is sure to get another time.
    settled: bool,
}

/// More than the kernel's clock for files goes on by at once: 10 ms where HZ is 100.
const TICK: Duration = Duration::from_millis(20);

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let changed = changed(metadata);
        Stamp {
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed,
            is_directory: metadata.is_dir(),
            settled: changed.elapsed().is_ok_and(|age| age > TICK),
        }
    }

    /// Any write, and any change of owner, mode, attributes or links, sets the time of change, and
    /// no program can set it back (inode(7), ctime). A write through a mapping does so only when
    /// the page was clean, which is why a live pass syncs before it reads.
    fn is_still(&self, metadata: &Metadata) -> bool {
        self.settled
            && self.inode == metadata.ino()
            && self.bytes == metadata.len()
            && self.changed == changed(metadata)
    }
}

fn changed(metadata: &Metadata) -> SystemTime {
    let since_epoch = Duration::new(
        metadata.ctime().max(0) as u64,
        metadata.ctime_nsec().max(0) as u32,
    );
    SystemTime::UNIX_EPOCH + since_epoch
}

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

/// Reads exactly as many bytes as the header promised: a file that changes its size while it is
/// packed must not shift everything behind it.
pub(crate) struct Exactly {
    pub(crate) file: File,
    pub(crate) left: u64,
    pub(crate) pass: Pass,
}

impl Read for Exactly {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = buf.len().min(self.left.try_into().unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let mut n = self.file.read(&mut buf[..wanted])?;
        if n == 0 {
            if self.pass == Pass::Frozen {
                return Err(io::Error::other("a file shrank while it was read"));
            }
            buf[..wanted].fill(0);
            n = wanted;
        }
        self.left -= n as u64;
        Ok(n)
    }
}

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

/// What an entry's PAX header says.
struct Records {
    opaque: bool,
    mtime: TimeSpec,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Records {
    fn read<R: Read>(entry: &mut Entry<R>) -> io::Result<Self> {
        let mut records = Records {
            opaque: false,
            mtime: TimeSpec::new(entry.header().mtime()? as i64, 0),
            xattrs: Vec::new(),
        };
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            let key = record.key().map_err(invalid)?;
            let value = record.value_bytes();
            if key == OPAQUE {
                records.opaque = true;
            } else if key == "mtime" {
                records.mtime = std::str::from_utf8(value)
                    .ok()
                    .and_then(parse_time)
                    .ok_or_else(|| invalid("bad mtime"))?;
            } else if let Some(name) = key.strip_prefix(XATTR).filter(|name| travels(name)) {
                records.xattrs.push((name.into(), value.to_vec()));
            }
        }
        Ok(records)
    }
}

fn parse_time(text: &str) -> Option<TimeSpec> {
    let (seconds, nanoseconds) = text.split_once('.')?;
    Some(TimeSpec::new(
        seconds.parse().ok()?,
        nanoseconds.parse().ok()?,
    ))
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

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
