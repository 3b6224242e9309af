//! One command per container at a time.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use common::paths::RUN_DIR;
use common::protocol::MigrationId;
use nix::unistd::Pid;

/// Held while a command works on a container; the kernel lets go of it when the command dies.
pub(crate) struct ContainerLock(File);

impl ContainerLock {
    /// Writes down that this process carries on `migration`, for [`carrier`].
    pub(crate) fn carries(&self, migration: &MigrationId) -> io::Result<()> {
        self.0.set_len(0)?;
        writeln!(&self.0, "{} {migration}", std::process::id())
    }
}

/// The process that carries on `migration` of container `id`, if there is one that has its lock.
pub(crate) fn carrier(id: &str, migration: &MigrationId) -> Option<Pid> {
    let path = path(id);
    let text = std::fs::read_to_string(&path).ok()?;
    let (pid, carried) = text.trim().split_once(' ')?;
    let pid: i32 = pid.parse().ok()?;
    // What a dead process has written stays, and its number may be another's by now.
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let has_it = open
        .flatten()
        .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == path));
    (carried == migration.as_str() && has_it).then(|| Pid::from_raw(pid))
}

fn path(id: &str) -> PathBuf {
    Path::new(RUN_DIR)
        .join("containers")
        .join(format!("{id}.lock"))
}

impl Drop for ContainerLock {
    fn drop(&mut self) {
        // Explicitly: a child forked meanwhile may still hold a copy of the descriptor.
        let _ = self.0.unlock();
    }
}

/// Locks container `id`; `None` if another command has it.
pub(crate) fn container(id: &str) -> anyhow::Result<Option<ContainerLock>> {
    let path = path(id);
    let directory = path.parent().context("it is below another")?;
    let context = || path.display().to_string();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
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
