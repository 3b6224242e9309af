//! What travels of a container besides its image, as tar: its files while it runs, and while it is
//! frozen CRIU's images and the files that have changed since. Each piece is below a prefix that
//! says where it belongs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::entries::{self, Item};
use super::places::Places;
use super::tree::{self, Exactly, Index, Pass, Records, Source, Unpacker};
use crate::container::checkpoint::images;

impl Places {
    /// What has this prefix, in words.
    fn named(&self, prefix: &Path) -> String {
        let number = prefix
            .file_name()
            .and_then(|number| number.to_str()?.parse().ok());
        let mut mounts = match prefix.starts_with(FILES) {
            true => self.files.keys(),
            false => self.volumes.keys(),
        };
        let mounted = number.and_then(|number| mounts.nth(number));
        mounted
            .cloned()
            .unwrap_or_else(|| "the root file system".to_owned())
    }

    /// The prefixes of what is mounted: volumes and files go by their place in the sorted list of mount
    /// points, because the mount points themselves contain slashes.
    fn mounted<'a>(
        name: &'a str,
        mounted: &'a BTreeMap<String, PathBuf>,
    ) -> impl Iterator<Item = (PathBuf, &'a Path)> {
        let numbered = mounted.values().enumerate();
        numbered
            .map(move |(number, path)| (Path::new(name).join(number.to_string()), path.as_path()))
    }
}

const CHECKPOINT: &str = "checkpoint";
const ROOTFS: &str = "rootfs";
const SHM: &str = "shm";
const VOLUMES: &str = "volumes";
const FILES: &str = "files";
const LOG: &str = "log";

/// What the files of a container were when they were sent.
#[derive(Debug, Default)]
pub struct Sent(BTreeMap<PathBuf, Index>);

/// Writes the files of a running container from `places` to `sink`: volumes, and of the root file
/// system the changes in `upper`; only what has changed since `sent`, if that is given. What
/// changes meanwhile is for a later pass, or for [`Frozen`]. Also returns what was sent so far.
///
/// Not /dev/shm: memory that is mapped there can change without a trace.
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
        let builder = &mut self.builder;
        self.images.finish(builder)?;
        if let Some(shm) = &places.shm {
            let (prefix, source) = (Path::new(SHM), Source::Plain(shm));
            tree::pack(builder, prefix, source, Pass::Frozen, None)?;
        }
        files(builder, places, upper, Pass::Frozen, sent)?;
        if places.log.exists() {
            // Only what is there now: conmon is not frozen, and may still have something to write.
            let file = fs::File::open(&places.log)?;
            let metadata = file.metadata()?;
            let left = metadata.len();
            let mut header = Header::new_gnu();
            header.set_metadata(&metadata);
            builder.append_data(
                &mut header,
                LOG,
                Exactly {
                    file,
                    left,
                    pass: Pass::Frozen,
                },
            )?;
        }
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
    for (prefix, directory) in Places::mounted(VOLUMES, &places.volumes) {
        trees.push((prefix, Source::Plain(directory)));
    }
    for (prefix, file) in Places::mounted(FILES, &places.files) {
        trees.push((prefix, Source::File(file)));
    }
    let mut now = Sent::default();
    for (prefix, source) in trees {
        let since = sent.and_then(|sent| sent.0.get(&prefix));
        let index = tree::pack(builder, &prefix, source, pass, since)?;
        now.0.insert(prefix, index);
    }
    Ok(now)
}

/// What a stream holds, and so may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What [`pack_files`] wrote: files below volumes and the root file system.
    Files,
    /// What [`Frozen`] wrote: first CRIU's images, then those and /dev/shm, last the log.
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
    let mut trees: BTreeMap<PathBuf, Unpacker> = BTreeMap::new();
    trees.insert(ROOTFS.into(), Unpacker::new(&places.rootfs)?);
    for (prefix, directory) in Places::mounted(VOLUMES, &places.volumes) {
        trees.insert(prefix, Unpacker::new(directory)?);
    }
    for (prefix, file) in Places::mounted(FILES, &places.files) {
        trees.insert(prefix, Unpacker::of_file(file)?);
    }
    if let Some(shm) = places.shm.as_ref().filter(|_| kind == Kind::Checkpoint) {
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
            Some(LOG) => Part::Log,
            _ => Part::Trees,
        };
        let of_the_agent = part != Part::Trees;
        if part < reached
            || of_the_agent && (kind == Kind::Files || extended.is_some())
            || of_the_agent && entry.header().entry_type() != EntryType::Regular
        {
            return Err(unexpected());
        }
        reached = part;
        match part {
            Part::Images => return images.entry(&relative, entry),
            Part::Log if relative.as_os_str().is_empty() => {
                return io::copy(entry, &mut fs::File::create(&places.log)?).map(drop);
            }
            Part::Log => return Err(unexpected()),
            Part::Trees => {}
        }
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
        let tree = trees.get_mut(&prefix).ok_or_else(unexpected)?;
        tree.entry(&relative, &link, &records, entry)
    })?;
    let mut warnings = Vec::new();
    for (prefix, unpacker) in trees {
        let place = places.named(&prefix);
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
