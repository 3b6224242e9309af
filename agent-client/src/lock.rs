//! One command per container at a time.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use common::lock::{Lock, LockError};
use common::paths::RUN_DIR;
use common::protocol::MigrationId;
use nix::unistd::Pid;

/// Held while a command works on a container; the kernel releases it when the command dies.
pub(crate) struct ContainerLock(Lock);

impl ContainerLock {
    /// Writes down that this process is working on `migration`, for [`carrier`].
    pub(crate) fn carries(&self, migration: &MigrationId) -> io::Result<()> {
        let mut file = self.0.file();
        file.set_len(0)?;
        writeln!(file, "{} {migration}", std::process::id())
    }
}

/// The process that is working on `migration` of container `id`, if one does and holds its lock.
pub(crate) fn carrier(id: &str, migration: &MigrationId) -> Option<Pid> {
    let path = path(id);
    let text = std::fs::read_to_string(&path).ok()?;
    let (pid, carried) = text.trim().split_once(' ')?;
    let pid: i32 = pid.parse().ok()?;
    // What a dead process has written stays, and its pid may have been reused.
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

/// Locks container `id`; `None` if another command has it.
pub(crate) fn container(id: &str) -> Result<Option<ContainerLock>, LockError> {
    Ok(Lock::try_exclusive(&path(id))?.map(ContainerLock))
}
