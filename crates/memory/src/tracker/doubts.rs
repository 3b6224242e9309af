//! Reasons not to believe the kernel that a page was not written to.
//!
//! Write protection is seen by whoever writes through the process's page tables. Not by what had the page pinned when it was
//! protected: a device that reads into it (`O_DIRECT`), or the kernel on behalf of io_uring and asynchronous I/O.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::inject::InjectError;
use crate::process::Process;

/// Why a process's pages are compared by their hashes.
#[derive(Debug, thiserror::Error)]
pub enum Doubt {
    /// The kernel cannot do better.
    #[error("the kernel has no write protection that programs need not answer")]
    Kernel,
    /// The process has something open that may write past the protection.
    #[error("it has {what} open, through which memory may change unseen")]
    Unseen {
        /// What.
        what: String,
    },
    /// It could not be looked at.
    #[error("cannot look at what it has open: {0}")]
    Look(#[source] std::io::Error),
    /// It could not be made to open a userfaultfd.
    #[error("no userfaultfd: {0}")]
    Inject(#[source] InjectError),
    /// The userfaultfd does not do what it is for.
    #[error("the userfaultfd is of no use: {0}")]
    Userfault(#[source] std::io::Error),
}

/// File systems whose files a device or another program may write from into a reader's memory, whether opened with `O_DIRECT`
/// or not.
const DIRECT_FILE_SYSTEMS: [&str; 7] = ["fuse", "9p", "nfs", "cifs", "smb3", "ceph", "virtiofs"];

/// Whether the process has anything open, or mapped, through which its memory may change although it is protected.
///
/// Asked after pages were protected and before they are read, it finds each file from which a thread was reading directly at both times.
pub(super) fn about(process: &Process) -> Result<(), Doubt> {
    let maps = fs::read_to_string(process.file("maps")).map_err(Doubt::Look)?;
    // fs/aio.c: a ring for requests that are under way.
    if maps
        .lines()
        .any(|line| line.split_ascii_whitespace().nth(5) == Some("/[aio]"))
    {
        return Err(unseen("a ring for asynchronous I/O"));
    }
    let mut mounts = None;
    for table in tables(process).map_err(Doubt::Look)? {
        look(&table, &mut mounts)?;
    }
    Ok(())
}

fn unseen(what: &str) -> Doubt {
    Doubt::Unseen { what: what.into() }
}

/// The directories in /proc of its tables of open files: threads may have their own.
fn tables(process: &Process) -> std::io::Result<Vec<PathBuf>> {
    const KCMP_FILES: i32 = 2;
    let mut tables = vec![process.file("")];
    for entry in fs::read_dir(process.file("task"))?.flatten() {
        let Some(tid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let (pid, tid): (i32, i32) = (process.pid, tid);
        // SAFETY: no pointers are passed.
        let same =
            tid == pid || unsafe { libc::syscall(libc::SYS_kcmp, pid, tid, KCMP_FILES, 0, 0) } == 0;
        if !same {
            tables.push(entry.path());
        }
    }
    Ok(tables)
}

/// Looks at one table of open files.
fn look(table: &Path, mounts: &mut Option<BTreeSet<u64>>) -> Result<(), Doubt> {
    let descriptors = match fs::read_dir(table.join("fd")) {
        Ok(descriptors) => descriptors,
        // A thread that has ended.
        Err(error) if crate::ranges::is_gone(&error) => return Ok(()),
        Err(error) => return Err(Doubt::Look(error)),
    };
    for descriptor in descriptors.flatten() {
        // What is closed meanwhile does not matter.
        let Ok(target) = fs::read_link(descriptor.path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        if ["socket:", "pipe:"]
            .iter()
            .any(|kind| target.starts_with(kind))
        {
            continue;
        }
        let kinds = [
            "anon_inode:[io_uring]",
            "anon_inode:[userfaultfd]",
            "anon_inode:kvm",
        ];
        let devices = ["/dev/infiniband/", "/dev/vfio/", "/dev/dri/", "/dev/nvidia"];
        if kinds
            .iter()
            .chain(&devices)
            .any(|kind| target.starts_with(kind))
        {
            return Err(unseen(&target));
        }
        if target.starts_with("anon_inode:") {
            continue;
        }
        let information = table.join("fdinfo").join(descriptor.file_name());
        let Ok(information) = fs::read_to_string(information) else {
            continue;
        };
        let field = |name: &str| {
            information
                .lines()
                .find_map(|line| Some(line.strip_prefix(name)?.trim()))
        };
        let flags = field("flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok());
        if flags.is_none_or(|flags| flags & libc::O_DIRECT != 0) {
            return Err(unseen("a file with O_DIRECT"));
        }
        let mount = field("mnt_id:").and_then(|id| id.parse().ok());
        if let Some(mount) = mount
            && direct_mounts(table, mounts).contains(&mount)
        {
            return Err(unseen("a file of a file system that may read directly"));
        }
    }
    Ok(())
}

/// The numbers of the mounts of such file systems that the process has.
fn direct_mounts<'a>(table: &Path, mounts: &'a mut Option<BTreeSet<u64>>) -> &'a mut BTreeSet<u64> {
    mounts.get_or_insert_with(|| {
        let text = fs::read_to_string(table.join("mountinfo")).unwrap_or_default();
        text.lines().filter_map(direct_mount).collect()
    })
}

/// The number of a mount of such a file system: proc_pid_mountinfo(5).
fn direct_mount(line: &str) -> Option<u64> {
    let number = line.split(' ').next()?.parse().ok()?;
    let (_, file_system) = line.split_once(" - ")?;
    let kind = file_system.split(' ').next()?;
    let main = kind.split('.').next()?;
    DIRECT_FILE_SYSTEMS
        .iter()
        .any(|direct| {
            main.strip_prefix(direct)
                .is_some_and(|rest| rest.is_empty() || rest == "4")
        })
        .then_some(number)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn this() -> Process {
        Process::open(std::process::id() as i32, 1).unwrap()
    }

    #[test]
    fn file_systems_are_recognised() {
        let line = |kind: &str| format!("36 35 98:0 / /m rw,noatime master:1 - {kind} x rw");
        for kind in ["fuse", "fuse.sshfs", "nfs4", "nfs", "9p"] {
            assert_eq!(direct_mount(&line(kind)), Some(36), "{kind}");
        }
        for kind in ["ext4", "overlay", "fusectl", "nfsd", "tmpfs"] {
            assert_eq!(direct_mount(&line(kind)), None, "{kind}");
        }
    }

    #[test]
    fn what_writes_past_the_protection_is_a_doubt() {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(file.path())
            .unwrap();
        // Other tests of this process may have reasons of their own; with this one it is certain.
        about(&this()).unwrap_err();
        drop(direct);
    }
}
