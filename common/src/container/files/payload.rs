//! What travels of a container besides its image, as tar: its files while it runs, and while it is
//! frozen CRIU's images and the files that have changed since. Each piece is below a prefix that
//! says where it belongs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Builder, EntryType, Header};

use super::places::Places;
use super::tree::{self, Exactly, Index, Pass, Source, Unpacker};
use crate::container::checkpoint::images;

impl Places {
    /// Where the volume with this number is mounted.
    fn volume_mounted(&self, number: &Path) -> String {
        let number = number.to_str().and_then(|number| number.parse().ok());
        let mut mounts = self.volumes.keys();
        number
            .and_then(|number| mounts.nth(number))
            .cloned()
            .unwrap_or_default()
    }
}

const CHECKPOINT: &str = "checkpoint";
const ROOTFS: &str = "rootfs";
const SHM: &str = "shm";
const VOLUMES: &str = "volumes";
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
    // Volumes go by their place in the sorted list of mount points: the mount points themselves
    // contain slashes.
    for (number, directory) in places.volumes.values().enumerate() {
        let prefix = Path::new(VOLUMES).join(number.to_string());
        trees.push((prefix, Source::Plain(directory)));
    }
    let mut now = Sent::default();
    for (prefix, source) in trees {
        let since = sent.and_then(|sent| sent.0.get(&prefix));
        let index = tree::pack(builder, &prefix, source, pass, since)?;
        now.0.insert(prefix, index);
    }
    Ok(now)
}

/// Reads what [`Frozen`] or [`pack_files`] wrote and puts everything in place below `places`. Returns
/// warnings: what of it this host has no room for.
pub fn unpack<R: Read>(places: &Places, source: R) -> io::Result<Vec<String>> {
    let mut roots: BTreeMap<PathBuf, &Path> = BTreeMap::new();
    roots.insert(ROOTFS.into(), &places.rootfs);
    if let Some(shm) = &places.shm {
        roots.insert(SHM.into(), shm);
    }
    for (number, directory) in places.volumes.values().enumerate() {
        roots.insert(Path::new(VOLUMES).join(number.to_string()), directory);
    }
    fs::create_dir_all(&places.checkpoint)?;
    let mut images = images::Incoming::new(&places.checkpoint);
    let mut unpackers: BTreeMap<PathBuf, Unpacker> = BTreeMap::new();
    for (prefix, root) in roots {
        unpackers.insert(prefix, Unpacker::new(root)?);
    }

    for entry in Archive::new(source).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if path == Path::new(LOG) {
            io::copy(&mut entry, &mut fs::File::create(&places.log)?)?;
            continue;
        }
        let (prefix, relative) = split(&path)?;
        if prefix == Path::new(CHECKPOINT) {
            images.entry(&relative, &mut entry)?;
            continue;
        }
        let link = match entry.header().entry_type() {
            EntryType::Link => {
                let target = entry
                    .link_name()?
                    .map(|t| t.into_owned())
                    .unwrap_or_default();
                let (target_prefix, target) = split(&target)?;
                if target_prefix != prefix {
                    return Err(malformed(&path));
                }
                Some(target)
            }
            _ => None,
        };
        unpackers
            .get_mut(&prefix)
            .ok_or_else(|| malformed(&path))?
            .entry(&relative, link.as_deref(), &mut entry)?;
    }
    let mut warnings = Vec::new();
    for (prefix, unpacker) in unpackers {
        let place = match prefix.strip_prefix(VOLUMES) {
            Ok(number) => places.volume_mounted(number),
            Err(_) => "the root file system".to_owned(),
        };
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
    if prefix == Path::new(VOLUMES) {
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
