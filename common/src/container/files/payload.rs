//! What travels of a container besides its image, as tar: its files while it runs, and while it is
//! frozen CRIU's images and what has changed of the files since. Each piece is below a prefix that
//! says where it belongs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use tar::{Builder, Entry, EntryType, Header};

use super::entries::{self, Item};
use super::places::{Places, Volumes};
use super::tree::{self, Exactly, Index, Pass, Records, Source, Unpacker};
use crate::container::checkpoint::images;

const CHECKPOINT: &str = "checkpoint";
const ROOTFS: &str = "rootfs";
const SHM: &str = "shm";
const VOLUMES: &str = "volumes";
const FILES: &str = "files";
const LOG: &str = "log";
/// What the log has grown by.
const REST_OF_LOG: &str = "rest-of-log";

/// What the files of a container were when they were sent.
#[derive(Debug, Default)]
pub struct Sent {
    trees: BTreeMap<PathBuf, Index>,
    log: Option<SentLog>,
}

/// What was sent of the log. conmon only appends to it, and begins another file when it has grown too long
/// (`reopen_k8s_file` in conmon's src/ctr_logging.c).
#[derive(Debug)]
struct SentLog {
    inode: u64,
    bytes: u64,
}

/// Writes the files of volumes alone, as [`pack_files`] does: these need no container at the other end.
///
/// When Podman there first mounts them for one, it gives their roots the owner and mode of the directory in
/// the image, and copies its files into empty ones (`fixVolumePermissions` and `mountNamedVolume` in
/// libpod/container_internal_common.go and container_internal.go). So these two are sent again with the next pass.
pub fn pack_volumes<W: Write>(
    volumes: &Volumes,
    sent: Option<&Sent>,
    sink: W,
) -> io::Result<(W, Sent)> {
    let mut builder = Builder::new(sink);
    let mut now = pack_trees(&mut builder, volume_trees(volumes), Pass::Live, sent)?;
    now.trees.retain(|_, index| !index.is_empty());
    now.trees.values_mut().for_each(Index::forget_root);
    Ok((builder.into_inner()?, now))
}

/// Writes the files of a running container from `places` to `sink`: volumes, /dev/shm, of the root file
/// system the changes in `upper`, and the log; only what has changed since `sent`, if that is given. What
/// changes meanwhile is for a later pass, or for [`Frozen`]. Also returns what was sent so far.
pub fn pack_files<W: Write>(
    places: &Places,
    upper: &Path,
    sent: Option<&Sent>,
    sink: W,
) -> io::Result<(W, Sent)> {
    let mut builder = Builder::new(sink);
    let sent = files(&mut builder, places, upper, Pass::Live, sent)?;
    Ok((builder.into_inner()?, sent))
}

/// What is written of a frozen container.
pub struct Frozen<W: Write> {
    builder: Builder<W>,
    images: images::Outgoing,
}

impl<W: Write> Frozen<W> {
    /// To be written to `sink`, with the images that CRIU is about to write into `checkpoint`, which
    /// exists.
    pub fn new(sink: W, checkpoint: &Path) -> Self {
        Frozen {
            builder: Builder::new(sink),
            images: images::Outgoing::new(checkpoint, Path::new(CHECKPOINT)),
        }
    }

    /// Writes the images, while CRIU is still dumping, as far as they are ready.
    pub fn follow_dump(&mut self) -> io::Result<()> {
        self.images.follow(&mut self.builder)
    }

    /// Writes everything else from `places` when the dump is over; of the files only what has
    /// changed since `sent`, if that is given.
    pub fn finish(mut self, places: &Places, upper: &Path, sent: Option<&Sent>) -> io::Result<W> {
        self.images.finish(&mut self.builder)?;
        files(&mut self.builder, places, upper, Pass::Frozen, sent)?;
        self.builder.into_inner()
    }
}

fn files<W: Write>(
    builder: &mut Builder<W>,
    places: &Places,
    upper: &Path,
    pass: Pass,
    sent: Option<&Sent>,
) -> io::Result<Sent> {
    let rootfs = Source::Overlay {
        upper,
        merged: &places.rootfs,
    };
    let mut trees = vec![(PathBuf::from(ROOTFS), rootfs)];
    trees.extend(volume_trees(&places.volumes));
    for (prefix, file) in numbered(FILES, &places.files) {
        trees.push((prefix, Source::File(file)));
    }
    if let Some(shm) = &places.shm {
        trees.push((PathBuf::from(SHM), Source::Plain(shm)));
    }
    let mut now = pack_trees(builder, trees, pass, sent)?;
    let known = sent.and_then(|sent| sent.log.as_ref());
    now.log = log(builder, &places.log, known)?;
    Ok(now)
}

fn volume_trees(volumes: &Volumes) -> Vec<(PathBuf, Source<'_>)> {
    numbered(VOLUMES, volumes)
        .map(|(prefix, directory)| (prefix, Source::Plain(directory)))
        .collect()
}

/// The prefixes of what is mounted: it goes by its place in the sorted list of mount points, because the
/// mount points themselves contain slashes.
fn numbered<'a>(
    name: &'static str,
    mounted: &'a BTreeMap<String, PathBuf>,
) -> impl Iterator<Item = (PathBuf, &'a Path)> {
    let prefix = move |number: usize| Path::new(name).join(number.to_string());
    (0..)
        .zip(mounted.values())
        .map(move |(number, path)| (prefix(number), path.as_path()))
}

/// What has this prefix, in words.
fn named(prefix: &Path, volumes: &Volumes, files: &BTreeMap<String, PathBuf>) -> String {
    let mounted = [(VOLUMES, volumes), (FILES, files)];
    let mut mounted = mounted.into_iter().flat_map(|(name, mounted)| {
        let points = mounted.keys();
        numbered(name, mounted).zip(points)
    });
    match mounted.find(|((known, _), _)| known == prefix) {
        Some((_, point)) => point.clone(),
        None if prefix == Path::new(SHM) => "/dev/shm".to_owned(),
        None => "the root file system".to_owned(),
    }
}

fn pack_trees<W: Write>(
    builder: &mut Builder<W>,
    trees: Vec<(PathBuf, Source<'_>)>,
    pass: Pass,
    sent: Option<&Sent>,
) -> io::Result<Sent> {
    let mut now = Sent::default();
    for (prefix, source) in trees {
        let since = sent.and_then(|sent| sent.trees.get(&prefix));
        let index = tree::pack(builder, &prefix, source, pass, since)?;
        now.trees.insert(prefix, index);
    }
    Ok(now)
}

/// Writes the log, if there is one, or what is new of it.
fn log<W: Write>(
    builder: &mut Builder<W>,
    path: &Path,
    sent: Option<&SentLog>,
) -> io::Result<Option<SentLog>> {
    let mut file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    // Only what is there now: conmon is not frozen, and may still have something to write.
    let metadata = file.metadata()?;
    let (inode, bytes) = (metadata.ino(), metadata.len());
    let same = sent.filter(|sent| sent.inode == inode && sent.bytes <= bytes);
    let (name, known) = match same {
        Some(sent) => (REST_OF_LOG, sent.bytes),
        None => (LOG, 0),
    };
    file.seek(SeekFrom::Start(known))?;
    let left = bytes - known;
    let mut header = Header::new_gnu();
    header.set_metadata(&metadata);
    header.set_size(left);
    let pass = Pass::Frozen;
    builder.append_data(&mut header, name, Exactly { file, left, pass })?;
    Ok(Some(SentLog { inode, bytes }))
}

/// What a stream holds, and so may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What [`pack_files`] wrote: files, last the log.
    Files,
    /// What [`Frozen`] wrote: first CRIU's images, then the same.
    Checkpoint,
}

/// How far a stream has come: nothing of it may come after what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Images,
    Trees,
    Log,
}

/// Reads a stream of this kind and puts everything in place below `places`. Returns warnings: what of it
/// this host has no room for.
///
/// A path says where an entry goes, and is partly the container's: so what the agent or root relies on,
/// CRIU's images and the log, must come as it was sent, in its place in the stream and without anything
/// that a container can add to a file of its own.
///
/// # Errors
/// Those of the source and of the file systems, and for any entry that the other end does not write. What
/// came before it is in place then.
pub fn unpack<R: Read>(places: &Places, kind: Kind, source: R) -> io::Result<Vec<String>> {
    let mut trees = volume_unpackers(&places.volumes)?;
    trees.insert(ROOTFS.into(), Unpacker::new(&places.rootfs)?);
    for (prefix, file) in numbered(FILES, &places.files) {
        trees.insert(prefix, Unpacker::of_file(file)?);
    }
    if let Some(shm) = &places.shm {
        trees.insert(SHM.into(), Unpacker::new(shm)?);
    }
    fs::create_dir_all(&places.checkpoint)?;
    let mut images = images::Incoming::new(&places.checkpoint);
    let mut reached = match kind {
        Kind::Files => Part::Trees,
        Kind::Checkpoint => Part::Images,
    };

    entries::for_each(source, |item| {
        let Item {
            path,
            link,
            extended,
            entry,
        } = item;
        let unexpected = || malformed(&path);
        let (prefix, relative) = split(&path)?;
        let part = match prefix.to_str() {
            Some(CHECKPOINT) => Part::Images,
            Some(LOG | REST_OF_LOG) => Part::Log,
            _ => Part::Trees,
        };
        let of_the_agent = part != Part::Trees;
        if part < reached
            || of_the_agent && extended.is_some()
            || of_the_agent && entry.header().entry_type() != EntryType::Regular
        {
            return Err(unexpected());
        }
        reached = part;
        match part {
            Part::Images => images.entry(&relative, entry),
            Part::Log if relative.as_os_str().is_empty() => {
                let mut file = match prefix == Path::new(LOG) {
                    true => fs::File::create(&places.log)?,
                    false => fs::File::options().append(true).open(&places.log)?,
                };
                io::copy(entry, &mut file).map(drop)
            }
            Part::Log => Err(unexpected()),
            Part::Trees => put(&mut trees, &prefix, &relative, link, extended, entry),
        }
    })?;
    finish(trees, &places.volumes, &places.files)
}

/// Reads what [`pack_volumes`] wrote, as [`unpack`] does.
///
/// # Errors
/// Those of [`unpack`].
pub fn unpack_volumes<R: Read>(volumes: &Volumes, source: R) -> io::Result<Vec<String>> {
    let mut trees = volume_unpackers(volumes)?;
    entries::for_each(source, |item| {
        let (prefix, relative) = split(&item.path)?;
        put(
            &mut trees,
            &prefix,
            &relative,
            item.link,
            item.extended,
            item.entry,
        )
    })?;
    finish(trees, volumes, &BTreeMap::new())
}

type Unpackers = BTreeMap<PathBuf, Unpacker>;

fn volume_unpackers(volumes: &Volumes) -> io::Result<Unpackers> {
    numbered(VOLUMES, volumes)
        .map(|(prefix, directory)| Ok((prefix, Unpacker::new(directory)?)))
        .collect()
}

/// Puts an entry into its tree.
fn put<R: Read>(
    trees: &mut Unpackers,
    prefix: &Path,
    relative: &Path,
    link: OsString,
    extended: Option<Vec<u8>>,
    entry: &mut Entry<'_, R>,
) -> io::Result<()> {
    let unexpected = || malformed(&prefix.join(relative));
    let link = match entry.header().entry_type() {
        EntryType::Link => {
            let (target_prefix, target) = split(Path::new(&link))?;
            if target_prefix != prefix {
                return Err(unexpected());
            }
            target.into_os_string()
        }
        _ => link,
    };
    let records = Records::parse(&extended.unwrap_or_default())?;
    let tree = trees.get_mut(prefix).ok_or_else(unexpected)?;
    tree.entry(relative, &link, &records, entry)
}

/// Sets what is left to set, and returns warnings.
fn finish(
    trees: Unpackers,
    volumes: &Volumes,
    files: &BTreeMap<String, PathBuf>,
) -> io::Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (prefix, unpacker) in trees {
        let place = named(&prefix, volumes, files);
        warnings.extend(unpacker.finish()?.iter().map(|attribute| {
            format!(
                "files of {place} are without their attribute {attribute:?}: the file system at the \
                 destination does not take it"
            )
        }));
    }
    Ok(warnings)
}

/// Splits an entry's path into prefix and rest.
fn split(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let mut components = path.components();
    let mut next = |path: &Path| match components.next() {
        Some(Component::Normal(name)) => Ok(PathBuf::from(name)),
        _ => Err(malformed(path)),
    };
    let mut prefix = next(path)?;
    if prefix == Path::new(VOLUMES) || prefix == Path::new(FILES) {
        prefix = prefix.join(next(path)?);
    }
    Ok((prefix, components.as_path().to_owned()))
}

fn malformed(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the checkpoint's stream holds an unexpected entry {path:?}"),
    )
}

#[cfg(test)]
mod tests;
