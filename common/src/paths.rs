//! Where the agents keep what must outlive them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::protocol::MigrationId;

/// Kept across reboots: identities, pinned peers, the WireGuard key, records of migrations.
pub const STATE_DIR: &str = "/var/lib/live-migration";

/// Gone after a reboot, like the kernel objects it describes: tunnels, gates.
pub const RUN_DIR: &str = "/run/live-migration";

/// Identity and pinned servers of `agent-client`.
pub fn client_dir() -> PathBuf {
    PathBuf::from(STATE_DIR).join("client")
}

/// Identity, authorized clients and invitations of `agent-server`.
pub fn server_dir() -> PathBuf {
    PathBuf::from(STATE_DIR).join("server")
}

/// Scratch space of one migration on this host; removed when it ends.
pub fn work_dir(migration: &MigrationId) -> PathBuf {
    PathBuf::from(STATE_DIR)
        .join("work")
        .join(migration.as_str())
}

/// Removes the scratch space of a migration, if there is any.
pub fn remove_work_dir(migration: &MigrationId) -> io::Result<()> {
    match std::fs::remove_dir_all(work_dir(migration)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Copies the log of a program that failed in a migration to a place below `directory`, where it
/// outlives the scratch space. Returns the copy's path. [`prune_logs`] removes old copies.
pub fn keep_log(directory: &Path, migration: &MigrationId, log: &Path) -> io::Result<PathBuf> {
    let kept = directory.join("logs");
    std::fs::create_dir_all(&kept)?;
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let to = kept.join(format!("{migration}-{name}"));
    std::fs::copy(log, &to)?;
    Ok(to)
}

/// Removes logs below `directory` that [`keep_log`] has put there and that are older than `age`.
///
/// # Errors
/// Those of the file system.
pub fn prune_logs(directory: &Path, age: Duration) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory.join("logs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let written = entry.metadata()?.modified()?;
        if written.elapsed().is_ok_and(|elapsed| elapsed > age) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The file this program was started from, for starting it again under another name. After an
/// in-place upgrade that is the new file; the kernel calls the old one `… (deleted)`.
pub fn executable() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    match path.to_str().and_then(|p| p.strip_suffix(" (deleted)")) {
        Some(replaced) => Ok(replaced.into()),
        None => Ok(path),
    }
}
