//! Locks between processes (flock(2)). The kernel releases them when their holder dies.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A lock file could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot lock {path}: {source}")]
pub struct LockError {
    path: PathBuf,
    source: io::Error,
}

/// A lock on a file, which is created if need be and never removed: a process that waits for the
/// lock on a removed file would not exclude those that come later.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes it once nobody else has it.
    ///
    /// # Errors
    /// If the file cannot be created or locked.
    pub fn exclusive(path: &Path) -> Result<Self, LockError> {
        let file = open(path)?;
        file.lock().map_err(|source| failed(path, source))?;
        Ok(Self(file))
    }

    /// Takes it if nobody else has it.
    ///
    /// # Errors
    /// As [`Self::exclusive`].
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>, LockError> {
        taken(path, File::try_lock)
    }

    /// Takes it shared, unless somebody has it exclusively.
    ///
    /// # Errors
    /// As [`Self::exclusive`].
    pub fn try_shared(path: &Path) -> Result<Option<Self>, LockError> {
        taken(path, File::try_lock_shared)
    }

    /// The file, in which its holder can tell others something; opened for appending.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Lock {
    /// Unlocks explicitly. Closing the file releases the lock only if no process has a copy of the
    /// descriptor, and between any fork and exec one does.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

fn taken(
    path: &Path,
    lock: fn(&File) -> Result<(), TryLockError>,
) -> Result<Option<Lock>, LockError> {
    let file = open(path)?;
    match lock(&file) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(failed(path, source)),
    }
}

fn open(path: &Path) -> Result<File, LockError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .and_then(|()| File::options().create(true).append(true).open(path))
        .map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> LockError {
    LockError {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_locks_exclude_exclusive_ones_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/on/the/way/lock");
        let first = Lock::try_shared(&path).unwrap().unwrap();
        let second = Lock::try_shared(&path).unwrap().unwrap();
        drop(first);
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        let copy = second.0.try_clone().unwrap();
        drop(second);
        let exclusive = Lock::try_exclusive(&path).unwrap().unwrap();
        assert!(Lock::try_shared(&path).unwrap().is_none());
        drop((exclusive, copy));
        Lock::exclusive(&path).unwrap();
    }
}
