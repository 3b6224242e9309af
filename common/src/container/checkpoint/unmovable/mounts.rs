//! On which mounts a container's processes have their files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// The mounts that CRIU finds: those that any of a container's processes can reach.
pub(super) struct Mounts(BTreeSet<u64>);

impl Mounts {
    /// Of these processes, as directories in `/proc`.
    pub(super) fn of<'a>(processes: impl Iterator<Item = &'a PathBuf>) -> Self {
        let (mut known, mut found) = (BTreeSet::new(), BTreeSet::new());
        for process in processes {
            let link = |name: &str| fs::read_link(process.join(name)).ok();
            // What it can reach depends on these two.
            if !known.insert((link("ns/mnt"), link("root"))) {
                continue;
            }
            let table = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
            found.extend(ids(&table));
        }
        Mounts(found)
    }

    /// What cannot be dumped of a file, if it is on none of them; `path` is the link to it in `/proc`.
    pub(super) fn lack(&self, path: &Path) -> Option<String> {
        let target = fs::read_link(path).ok()?;
        let target = target.to_str()?;
        // Others have no name on a mount.
        if !target.starts_with('/') || target.ends_with(" (deleted)") {
            return None;
        }
        let mount = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID).ok()?;
        let told = mount.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        (told && !self.0.contains(&mount.stx_mnt_id)).then(|| {
            format!(
                "has {target} open on a file system that is not mounted in the container any more (a mount \
                 namespace that it has left, for one)"
            )
        })
    }
}

/// From proc_pid_mountinfo(5).
fn ids(table: &str) -> impl Iterator<Item = u64> {
    let ids = table.lines().filter_map(|line| line.split(' ').next());
    ids.filter_map(|id| id.parse().ok())
}

/// What cannot be dumped if this first process of a container has changed its root: then it does not even see what
/// is mounted.
pub(super) fn other_root(first: &Path) -> Option<String> {
    let root = fs::read_link(first.join("root")).ok()?;
    let root = root.display();
    (root.to_string() != "/")
        .then(|| format!("is the first process and has made {root} its root (chroot)"))
}

/// POSIX message queues that exist in a container with this `first` process: CRIU dumps none.
pub(super) fn queues(first: &Path) -> Option<String> {
    let queues = fs::read_dir(first.join("root/dev/mqueue")).ok()?;
    let names = queues
        .flatten()
        .map(|queue| queue.file_name().to_string_lossy().into_owned());
    let names: Vec<String> = names.collect();
    (!names.is_empty()).then(|| format!("POSIX message queues exist ({})", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_on_a_known_mount_is_fine() {
        let own = PathBuf::from("/proc/self");
        let mounts = Mounts::of([&own].into_iter());
        assert_eq!(mounts.lack(&own.join("exe")), None);
        assert_eq!(mounts.lack(&own.join("cwd")), None);
        let none = Mounts(BTreeSet::new());
        assert!(none.lack(&own.join("exe")).is_some());
    }

    #[test]
    fn this_process_has_its_namespaces_root() {
        assert_eq!(other_root(Path::new("/proc/self")), None);
    }
}
