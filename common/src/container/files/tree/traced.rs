//! Whether a change of a file's content can be seen by its time of change.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, fstatfs};

/// From linux/magic.h.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// What is known of file systems, by device.
#[derive(Default)]
pub(super) struct Traced(HashMap<u64, bool>);

impl Traced {
    /// Whether the first write to `file` through a mapping changes its time once it was synced: where that
    /// does nothing its pages stay writable, and nobody can tell.
    pub(super) fn holds(&mut self, file: &File) -> io::Result<bool> {
        let device = file.metadata()?.dev();
        if let Some(known) = self.0.get(&device) {
            return Ok(*known);
        }
        let kind = fstatfs(file)?.filesystem_type();
        let holds = match kind {
            TMPFS_MAGIC | RAMFS_MAGIC => false,
            OVERLAYFS_SUPER_MAGIC => !is_volatile(file)?,
            _ => true,
        };
        self.0.insert(device, holds);
        Ok(holds)
    }
}

/// Whether `file` is on an overlay that syncs nothing (`ovl_fsync` in Linux' fs/overlayfs/file.c).
fn is_volatile(file: &File) -> io::Result<bool> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let id = id.map(str::trim).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().any(|line| has_option(line, id, "volatile")))
}

/// Whether a line of /proc/self/mountinfo is of mount `id`, whose file system has this option
/// (proc_pid_mountinfo(5)).
fn has_option(line: &str, id: &str, option: &str) -> bool {
    let mut fields = line.split(' ');
    let is_it = fields.next() == Some(id);
    let options = line.rsplit(' ').next().unwrap_or_default();
    is_it && options.split(',').any(|found| found == option)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_the_file_system() {
        let line =
            "61 29 0:50 / /m rw,volatile - overlay overlay rw,lowerdir=l,upperdir=u,volatile";
        assert!(has_option(line, "61", "volatile"));
        assert!(!has_option(line, "6", "volatile"));
        let line = "61 29 0:50 / /m rw,volatile - overlay overlay rw,lowerdir=l,upperdir=u";
        assert!(!has_option(line, "61", "volatile"));
    }

    #[test]
    fn memory_is_not_traced() {
        let Ok(shm) = tempfile::tempfile_in("/dev/shm") else {
            println!("skipped: no /dev/shm");
            return;
        };
        assert!(!Traced::default().holds(&shm).unwrap());
    }
}
