//! CRIU's images as tar entries, from the moment that CRIU begins to write them.
//!
//! Memory is nearly all of what there is, and its files only grow (page_xfer in CRIU's
//! criu/page-xfer.c writes them front to back), so pieces of them leave while CRIU still collects the
//! rest. An entry adds to the file of its name: the first one begins it. The other images are small,
//! and leave whole when the dump is over.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use tar::{Builder, Header};

use super::tree::{Exactly, Pass};

/// How the names begin of the files that hold memory.
const MEMORY: &[u8] = b"pages-";

/// Which images to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Images {
    /// Those of memory, as far as they are there.
    Memory,
    /// All; nobody writes to them any more.
    All,
}

/// Images that leave, and how much of each has.
#[derive(Debug, Default)]
pub(super) struct Outgoing(BTreeMap<OsString, u64>);

impl Outgoing {
    /// Writes what has come to the `images` in `directory` since the last call as entries below
    /// `prefix`. Returns its bytes.
    pub(super) fn write<W: Write>(
        &mut self,
        images: Images,
        directory: &Path,
        prefix: &Path,
        builder: &mut Builder<W>,
    ) -> io::Result<u64> {
        let mut written = 0;
        let mut names: Vec<_> = fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            if images == Images::Memory && !name.as_bytes().starts_with(MEMORY) {
                continue;
            }
            let mut file = File::open(directory.join(&name))?;
            let known = self.0.get(&name).copied();
            let bytes = file.metadata()?.len();
            let sent = known.unwrap_or(0);
            let Some(left) = bytes.checked_sub(sent) else {
                return Err(io::Error::other(format!("{} shrank", name.display())));
            };
            if left == 0 && known.is_some() {
                continue;
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
            builder.append_data(&mut header, prefix.join(&name), piece)?;
            self.0.insert(name, bytes);
            written += left;
        }
        Ok(written)
    }
}

/// Images that arrive in a directory.
#[derive(Debug)]
pub(super) struct Incoming {
    directory: PathBuf,
    begun: BTreeSet<OsString>,
}

impl Incoming {
    pub(super) fn new(directory: &Path) -> Self {
        Incoming {
            directory: directory.to_owned(),
            begun: BTreeSet::new(),
        }
    }

    /// Adds `piece` to the image called `name`; what was there before the first piece goes.
    pub(super) fn entry(&mut self, name: &Path, piece: &mut impl Read) -> io::Result<()> {
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
    fn memory_leaves_while_it_grows() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (prefix, mut outgoing) = (Path::new(PREFIX), Outgoing::default());
        let mut builder = Builder::new(Vec::new());
        let mut write = |images| {
            outgoing
                .write(images, here.path(), prefix, &mut builder)
                .unwrap()
        };
        assert_eq!(write(Images::Memory), 0);
        fs::write(here.path().join("pages-1.img"), [1; 3000]).unwrap();
        fs::write(here.path().join("core-1.img"), [9; 10]).unwrap();
        assert_eq!(write(Images::Memory), 3000);
        assert_eq!(write(Images::Memory), 0);
        let mut grown = vec![1; 3000];
        grown.extend([2; 5000]);
        fs::write(here.path().join("pages-1.img"), &grown).unwrap();
        fs::write(here.path().join("pages-2.img"), []).unwrap();
        assert_eq!(write(Images::Memory), 5000);
        assert_eq!(write(Images::All), 10);
        let archive = builder.into_inner().unwrap();

        fs::write(there.path().join("pages-1.img"), "of an earlier stream").unwrap();
        arrive(there.path(), &archive).unwrap();
        let arrived = |name| fs::read(there.path().join(name)).unwrap();
        assert_eq!(arrived("pages-1.img"), grown);
        assert!(arrived("pages-2.img").is_empty());
        assert_eq!(arrived("core-1.img"), [9; 10]);
    }

    #[test]
    fn an_image_that_shrinks_is_an_error() {
        let here = tempfile::tempdir().unwrap();
        let mut outgoing = Outgoing::default();
        let mut builder = Builder::new(Vec::new());
        for (bytes, ok) in [(10, true), (9, false)] {
            fs::write(here.path().join("pages-1.img"), vec![0; bytes]).unwrap();
            let written =
                outgoing.write(Images::Memory, here.path(), Path::new(PREFIX), &mut builder);
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
