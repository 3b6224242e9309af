//! Makes the place that a bind mount is sent to.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::bind::{Bind, Kind};
use crate::durable;

/// A place for what is sent of a bind mount, and how to undo making it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The place.
    path: PathBuf,
    /// Whether it is for a directory, and not for a file.
    directory: bool,
    /// Where it is made, beside its place. No other migration uses the name.
    draft: PathBuf,
    /// Where what was there waits until it is certain that it is not needed any more.
    aside: PathBuf,
    /// Directories that are made for it, the innermost first.
    above: Vec<PathBuf>,
    /// Device and inode of what was made, once it was.
    inode: Option<(u64, u64)>,
}

impl Made {
    /// How a place for `bind` will be made for `migration`, of which it is number `number`.
    pub fn plan(bind: &Bind, migration: &str, number: usize) -> io::Result<Self> {
        let path = bind.there().to_owned();
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let name = |what: &str| parent.join(format!(".live-migration-{migration}-{number}.{what}"));
        let missing = parent.ancestors().take_while(|above| !above.exists());
        Ok(Made {
            directory: bind.kind == Kind::Directory,
            draft: name("new"),
            aside: name("old"),
            above: missing.map(Path::to_owned).collect(),
            inode: None,
            path,
        })
    }

    /// The place.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes something empty of the right kind, not yet in its place. Undone by [`Made::remove`].
    ///
    /// # Errors
    /// Those of the file system.
    pub fn draft(&mut self) -> io::Result<()> {
        let parent = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        durable::create_dir_all(parent)?;
        match self.directory {
            true => DirBuilder::new().mode(0o700).create(&self.draft)?,
            false => {
                let mut options = File::options();
                drop(
                    options
                        .write(true)
                        .create_new(true)
                        .mode(0o600)
                        .open(&self.draft)?,
                );
            }
        }
        let made = fs::symlink_metadata(&self.draft)?;
        self.inode = Some((made.dev(), made.ino()));
        Ok(())
    }

    /// Puts it in its place, and what is there aside: nothing, an empty directory, or anything if
    /// `overwrite`. How to undo it must be written down before, as it is now. Undone by [`Made::remove`].
    ///
    /// # Errors
    /// Those of the file system, and if there is anything that must not be put aside.
    pub fn take_place(&self, overwrite: bool) -> io::Result<()> {
        let empty = |found: &fs::Metadata| {
            Ok::<_, io::Error>(found.is_dir() && fs::read_dir(&self.path)?.next().is_none())
        };
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(found) if overwrite || empty(&found)? => fs::rename(&self.path, &self.aside)?,
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        }
        // Neither takes the place of anything that has come since.
        match self.directory {
            true => fs::rename(&self.draft, &self.path),
            false => {
                fs::hard_link(&self.draft, &self.path)?;
                fs::remove_file(&self.draft)
            }
        }
    }

    /// Removes what was made with all that is in it, and puts back what was there. Harmless if nothing was
    /// made. What somebody else has put there meanwhile stays.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove(&self) -> io::Result<()> {
        remove(&self.draft)?;
        let found = fs::symlink_metadata(&self.path).ok();
        let inode = found.map(|found| (found.dev(), found.ino()));
        if inode.is_some() && inode == self.inode {
            remove(&self.path)?;
        }
        if self.aside.symlink_metadata().is_ok() {
            if self.path.symlink_metadata().is_ok() {
                let why = format!(
                    "{} is in the way of {}",
                    self.path.display(),
                    self.aside.display()
                );
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
            }
            fs::rename(&self.aside, &self.path)?;
        }
        for above in &self.above {
            // Somebody else may use them by now.
            let _ = fs::remove_dir(above);
        }
        Ok(())
    }

    /// Removes what was put aside, once nothing can be undone any more. Harmless if nothing was.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn forget_old(&self) -> io::Result<()> {
        remove(&self.aside)
    }
}

/// Removes a directory with all that is in it, or a file. One that does not exist is fine.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::binds::Wish;

    fn plan(path: &Path, kind: Kind) -> Made {
        let bind = Bind {
            source: path.display().to_string(),
            kind,
            wish: Wish::Send { overwrite: false },
            ..Bind::default()
        };
        Made::plan(&bind, "abc", 0).unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_place_is_made_and_unmade() {
        for kind in [Kind::Directory, Kind::File] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("on/the/way");
            let mut made = plan(&path, kind);
            made.remove().unwrap();
            made.draft().unwrap();
            assert!(!path.exists());
            made.take_place(false).unwrap();
            assert_eq!(path.is_dir(), kind == Kind::Directory);
            assert_eq!(names(path.parent().unwrap()), ["way"]);
            if kind == Kind::Directory {
                fs::write(path.join("file"), "sent").unwrap();
            }
            made.remove().unwrap();
            made.remove().unwrap();
            assert!(names(dir.path()).is_empty());
        }
    }

    #[test]
    fn what_is_there_stays_unless_it_may_go() {
        for kind in [Kind::Directory, Kind::File] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("data");
            let old = |path: &Path| match kind {
                Kind::Directory => path.join("file"),
                _ => path.to_owned(),
            };
            if kind == Kind::Directory {
                fs::create_dir(&path).unwrap();
            }
            fs::write(old(&path), "old").unwrap();
            let mut made = plan(&path, kind);
            made.draft().unwrap();
            made.take_place(false).unwrap_err();
            made.remove().unwrap();
            assert_eq!(fs::read_to_string(old(&path)).unwrap(), "old");

            made.draft().unwrap();
            made.take_place(true).unwrap();
            assert!(
                fs::read_to_string(old(&path))
                    .unwrap_or_default()
                    .is_empty()
            );
            made.remove().unwrap();
            assert_eq!(fs::read_to_string(old(&path)).unwrap(), "old");
            assert_eq!(names(dir.path()), ["data"]);

            made.draft().unwrap();
            made.take_place(true).unwrap();
            made.forget_old().unwrap();
            assert!(
                fs::read_to_string(old(&path))
                    .unwrap_or_default()
                    .is_empty()
            );
            assert_eq!(names(dir.path()), ["data"]);
        }
    }

    #[test]
    fn an_empty_directory_is_put_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        fs::create_dir(&path).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        let mut made = plan(&path, Kind::Directory);
        made.draft().unwrap();
        made.take_place(false).unwrap();
        assert_ne!(fs::metadata(&path).unwrap().ino(), before);
        made.remove().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
    }

    #[test]
    fn what_somebody_else_has_put_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let mut made = plan(&path, Kind::Directory);
        made.draft().unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("theirs"), "").unwrap();
        made.take_place(false).unwrap_err();
        made.remove().unwrap();
        assert_eq!(names(&path), ["theirs"]);
    }
}
