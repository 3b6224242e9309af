//! Files that only their owner may read: created with mode 0600, replaced as a whole, refused when
//! exposed.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use tempfile::NamedTempFile;

use crate::error::Error;

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Creates `dir`, and any missing directories above it, with mode 0700.
///
/// An existing directory keeps its mode. It is refused if others may write to it, because they
/// could replace our files with theirs.
pub(crate) fn prepare_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed("create", dir))?;
    let metadata = dir.metadata().map_err(failed("look at", dir))?;
    refuse_mode(dir, metadata.permissions().mode(), 0o022)
}

/// The text of a private file, or `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>, Error> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed("open", path))?,
    };
    let metadata = file.metadata().map_err(failed("look at", path))?;
    refuse_mode(path, metadata.permissions().mode(), 0o077)?;
    let mut text = String::new();
    file.read_to_string(&mut text)
        .map_err(failed("read", path))?;
    Ok(Some(text))
}

/// Puts a file with this text at `path` unless something is already there. Returns whether it did.
pub(crate) fn create(dir: &Path, path: &Path, text: &str) -> Result<bool, Error> {
    match stage(dir, text)?.persist_noclobber(path) {
        Ok(_) => sync(dir).map(|()| true),
        Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(refused) => Err(failed("create", path)(refused.error)),
    }
}

/// Puts a file with this text at `path`, replacing any file that is there.
pub(crate) fn replace(dir: &Path, path: &Path, text: &str) -> Result<(), Error> {
    stage(dir, text)?
        .persist(path)
        .map_err(|refused| failed("replace", path)(refused.error))?;
    sync(dir)
}

/// A complete file under a temporary name in `dir`, which is removed unless it is renamed.
fn stage(dir: &Path, text: &str) -> Result<NamedTempFile, Error> {
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(dir)
        .map_err(failed("create a file in", dir))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .map_err(failed("write to", file.path()))?;
    Ok(file)
}

/// Makes a rename in `dir` survive a power failure.
fn sync(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|opened| opened.sync_all())
        .map_err(failed("write to", dir))
}

fn refuse_mode(path: &Path, mode: u32, forbidden: u32) -> Result<(), Error> {
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(Error::Exposed {
        path: path.to_owned(),
        mode: mode & 0o777,
    })
}
