//! CRIU's images as tar entries, from the moment CRIU begins to write them.
//!
//! Nearly everything is memory, and its files only grow (page_xfer in CRIU's criu/page-xfer.c writes them
//! front to back), so they are sent in pieces while CRIU still collects the rest. Each connection has a
//! file of its own, which is sent when CRIU closes it. An entry is appended to the file of its name; the
//! first one creates it. The other images are small, and are sent whole when the dump is over.
//!
//! Inotify tells of new and closed files. Listing the directory over and over would keep CRIU from
//! creating the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tar::{Builder, Header};

use crate::container::files::tree::{Exactly, Pass};

/// Prefix of the files that hold memory.
const MEMORY: &[u8] = b"pages-";
/// Prefix of the files that hold a connection.
const CONNECTION: &[u8] = b"tcp-stream-";

/// Images that are sent from a directory, and how much of each has been sent.
pub(crate) struct Outgoing {
    directory: PathBuf,
    /// Where they belong in the archive.
    prefix: PathBuf,
    /// Without it, everything is sent when the dump is over.
    watch: Option<Inotify>,
    memory: BTreeSet<OsString>,
    sent: BTreeMap<OsString, u64>,
}

impl Outgoing {
    /// Call before CRIU begins: files that are already there are sent when the dump is over.
    pub(crate) fn new(directory: &Path, prefix: &Path) -> Self {
        let watch = watch(directory);
        if let Err(error) = &watch {
            tracing::debug!("images are sent after the dump: {error}");
        }
        Outgoing {
            directory: directory.to_owned(),
            prefix: prefix.to_owned(),
            watch: watch.ok(),
            memory: BTreeSet::new(),
            sent: BTreeMap::new(),
        }
    }

    /// Writes what CRIU has added to memory since the last call, and what it has finished of
    /// connections.
    pub(crate) fn follow<W: Write>(&mut self, builder: &mut Builder<W>) -> io::Result<()> {
        for (name, closed) in self.events()? {
            if name.as_bytes().starts_with(MEMORY) {
                self.memory.insert(name);
            } else if closed && name.as_bytes().starts_with(CONNECTION) {
                self.write(&name, builder)?;
            }
        }
        for name in self.memory.clone() {
            self.write(&name, builder)?;
        }
        Ok(())
    }

    /// Writes what is left when the dump is over.
    pub(crate) fn finish<W: Write>(mut self, builder: &mut Builder<W>) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(&self.directory)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        names.iter().try_for_each(|name| self.write(name, builder))
    }

    /// Names created or closed since the last call, and which of the two.
    fn events(&self) -> io::Result<Vec<(OsString, bool)>> {
        let mut found = Vec::new();
        let Some(watch) = &self.watch else {
            return Ok(found);
        };
        loop {
            let events = match watch.read_events() {
                Err(Errno::EAGAIN) => return Ok(found),
                events => events?,
            };
            found.extend(events.into_iter().filter_map(|event| {
                let closed = event.mask.contains(AddWatchFlags::IN_CLOSE_WRITE);
                Some((event.name?, closed))
            }));
        }
    }

    /// Writes what one image has grown by.
    fn write<W: Write>(&mut self, name: &OsStr, builder: &mut Builder<W>) -> io::Result<()> {
        let mut file = File::open(self.directory.join(name))?;
        let known = self.sent.get(name).copied();
        let bytes = file.metadata()?.len();
        let sent = known.unwrap_or(0);
        let Some(left) = bytes.checked_sub(sent) else {
            return Err(io::Error::other(format!("{} shrank", name.display())));
        };
        if left == 0 && known.is_some() {
            return Ok(());
        }
        file.seek(SeekFrom::Start(sent))?;
        let mut header = Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(left);
        let piece = Exactly {
            file,
            left,
            pass: Pass::Frozen,
        };
        builder.append_data(&mut header, self.prefix.join(name), piece)?;
        self.sent.insert(name.to_owned(), bytes);
        Ok(())
    }
}

fn watch(directory: &Path) -> nix::Result<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_CLOSE_WRITE;
    inotify.add_watch(directory, flags)?;
    Ok(inotify)
}

/// Images that arrive in a directory.
#[derive(Debug)]
pub(crate) struct Incoming {
    directory: PathBuf,
    begun: BTreeSet<OsString>,
}

impl Incoming {
    pub(crate) fn new(directory: &Path) -> Self {
        Incoming {
            directory: directory.to_owned(),
            begun: BTreeSet::new(),
        }
    }

    /// Appends `piece` to the image called `name`; the first piece replaces any older file.
    pub(crate) fn entry(&mut self, name: &Path, piece: &mut impl Read) -> io::Result<()> {
        let name = file_name(name)?;
        let path = self.directory.join(name);
        let begins = self.begun.insert(name.to_owned());
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        if begins {
            file.set_len(0)?;
        }
        io::copy(piece, &mut file).map(drop)
    }
}

fn file_name(path: &Path) -> io::Result<&OsStr> {
    let mut components = path.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None) => Ok(name),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{path:?} is no name of an image"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "checkpoint";

    fn arrive(directory: &Path, archive: &[u8]) -> io::Result<()> {
        let mut incoming = Incoming::new(directory);
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            incoming.entry(path.strip_prefix(PREFIX).unwrap(), &mut entry)?;
        }
        Ok(())
    }

    #[test]
    fn memory_leaves_while_it_grows_and_connections_when_they_are_whole() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut outgoing = Outgoing::new(here.path(), Path::new(PREFIX));
        let mut builder = Builder::new(Vec::new());
        let mut follow = |outgoing: &mut Outgoing| {
            outgoing.follow(&mut builder).unwrap();
            let sent = outgoing.sent.iter();
            sent.map(|(name, bytes)| format!("{} {bytes}", name.display()))
                .collect::<Vec<_>>()
        };
        assert!(follow(&mut outgoing).is_empty());
        fs::write(here.path().join("pages-1.img"), [1; 3000]).unwrap();
        fs::write(here.path().join("core-1.img"), [9; 10]).unwrap();
        let mut connection = File::create(here.path().join("tcp-stream-1.img")).unwrap();
        connection.write_all(&[4; 100]).unwrap();
        assert_eq!(follow(&mut outgoing), ["pages-1.img 3000"]);
        connection.write_all(&[4; 100]).unwrap();
        drop(connection);
        let both = ["pages-1.img 3000", "tcp-stream-1.img 200"];
        assert_eq!(follow(&mut outgoing), both);
        let mut grown = vec![1; 3000];
        grown.extend([2; 5000]);
        fs::write(here.path().join("pages-1.img"), &grown).unwrap();
        fs::write(here.path().join("pages-2.img"), []).unwrap();
        follow(&mut outgoing);
        assert_eq!(outgoing.sent[OsStr::new("pages-1.img")], 8000);
        outgoing.finish(&mut builder).unwrap();
        let archive = builder.into_inner().unwrap();

        fs::write(there.path().join("pages-1.img"), "of an earlier stream").unwrap();
        arrive(there.path(), &archive).unwrap();
        let arrived = |name| fs::read(there.path().join(name)).unwrap();
        assert_eq!(arrived("pages-1.img"), grown);
        assert!(arrived("pages-2.img").is_empty());
        assert_eq!(arrived("core-1.img"), [9; 10]);
        assert_eq!(arrived("tcp-stream-1.img"), [4; 200]);
    }

    #[test]
    fn without_news_everything_leaves_at_the_end() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(here.path().join("pages-1.img"), [1; 30]).unwrap();
        let mut outgoing = Outgoing::new(here.path(), Path::new(PREFIX));
        let mut builder = Builder::new(Vec::new());
        outgoing.follow(&mut builder).unwrap();
        assert!(outgoing.sent.is_empty());
        outgoing.finish(&mut builder).unwrap();
        arrive(there.path(), &builder.into_inner().unwrap()).unwrap();
        assert_eq!(fs::read(there.path().join("pages-1.img")).unwrap(), [1; 30]);
    }

    #[test]
    fn an_image_that_shrinks_is_an_error() {
        let here = tempfile::tempdir().unwrap();
        let mut outgoing = Outgoing::new(here.path(), Path::new(PREFIX));
        for (bytes, ok) in [(10, true), (9, false)] {
            fs::write(here.path().join("pages-1.img"), vec![0; bytes]).unwrap();
            let written = outgoing.follow(&mut Builder::new(Vec::new()));
            assert_eq!(written.is_ok(), ok);
        }
    }

    #[test]
    fn an_image_cannot_be_elsewhere() {
        let there = tempfile::tempdir().unwrap();
        let mut incoming = Incoming::new(there.path());
        std::os::unix::fs::symlink("/nowhere", there.path().join("link")).unwrap();
        for name in [
            "../pages-1.img",
            "sub/pages-1.img",
            "/pages-1.img",
            "",
            "link",
        ] {
            assert!(
                incoming.entry(Path::new(name), &mut io::empty()).is_err(),
                "{name}"
            );
        }
    }
}
