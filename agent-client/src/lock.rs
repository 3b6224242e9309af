//! One command per container at a time.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::Context;
use common::paths::RUN_DIR;

/// Held while a command works on a container; the kernel lets go of it when the command dies.
pub(crate) struct ContainerLock(File);

impl Drop for ContainerLock {
    fn drop(&mut self) {
        // Explicitly: a child forked meanwhile may still hold a copy of the descriptor.
        let _ = self.0.unlock();
    }
}

/// Locks container `id`; `None` if another command has it.
pub(crate) fn container(id: &str) -> anyhow::Result<Option<ContainerLock>> {
    let directory = Path::new(RUN_DIR).join("containers");
    let path = directory.join(format!("{id}.lock"));
    let context = || path.display().to_string();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .with_context(context)?;
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(context)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(ContainerLock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(context),
    }
}
