//! On which mounts a container's processes have their files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// File systems that CRIU mounts anew (`fstypes` in criu/filesystems.c).
const MADE_AGAIN: [&str; 15] = [
    "autofs",
    "binfmt_misc",
    "cgroup",
    "cgroup2",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "mqueue",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// The mounts that CRIU finds: those that any of a container's processes can reach.
#[derive(Default)]
pub(super) struct Mounts {
    ids: BTreeSet<u64>,
    /// Those that were mounted in the container and cannot be mounted again: where, and of which kind.
    inside: BTreeSet<(String, String)>,
}

impl Mounts {
    /// Of these processes, as directories in `/proc`.
    pub(super) fn of<'a>(processes: impl Iterator<Item = &'a PathBuf>) -> Self {
        let (mut known, mut found) = (BTreeSet::new(), Mounts::default());
        let host = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let host = devices(&host);
        for process in processes {
            let link = |name: &str| fs::read_link(process.join(name)).ok();
            // What it can reach depends on these two.
            if !known.insert((link("ns/mnt"), link("root"))) {
                continue;
            }
            let table = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
            found.ids.extend(ids(&table));
            found.inside.extend(inside(&table, &host));
        }
        found
    }

    /// What cannot be dumped of the file systems that are mounted.
    pub(super) fn unknown(&self) -> impl Iterator<Item = String> {
        self.inside
            .iter()
            .map(|(point, kind)| format!("a file system ({kind}) was mounted in it, at {point}"))
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
        (told && !self.ids.contains(&mount.stx_mnt_id)).then(|| {
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

/// Devices of what is mounted, from proc_pid_mountinfo(5).
fn devices(table: &str) -> BTreeSet<&str> {
    let devices = table.lines().filter_map(|line| line.split(' ').nth(2));
    devices.collect()
}

/// Mounts of a container that no runtime has made: what it mounts is the host's as well, or can be mounted again.
fn inside(table: &str, host: &BTreeSet<&str>) -> Vec<(String, String)> {
    let mounts = table.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let (device, point) = (fields.next()?, fields.nth(1)?);
        let kind = file_system.split(' ').next()?;
        let fine = point == "/" || host.contains(device) || MADE_AGAIN.contains(&kind);
        (!fine).then(|| (point.to_owned(), kind.to_owned()))
    });
    mounts.collect()
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
        let none = Mounts::default();
        assert!(none.lack(&own.join("exe")).is_some());
    }

    #[test]
    fn what_was_mounted_inside_is_found() {
        let container = "\
            500 400 0:60 / / rw,relatime - overlay overlay rw,lowerdir=/l\n\
            501 500 0:61 / /proc rw - proc proc rw\n\
            502 500 0:25 /hosts /etc/hosts rw master:5 - overlay overlay rw\n\
            503 500 0:62 / /mnt/far\\040away rw shared:7 - fuse.sshfs far:/ rw\n\
            504 500 0:63 / /huge rw - hugetlbfs none rw,pagesize=2M\n\
            nonsense";
        let host = "30 1 0:25 / / rw - overlay overlay rw\n";
        let found = inside(container, &devices(host));
        let expected = [("/mnt/far\\040away", "fuse.sshfs"), ("/huge", "hugetlbfs")];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn this_process_has_its_namespaces_root() {
        assert_eq!(other_root(Path::new("/proc/self")), None);
    }
}
