//! What a container's processes use that CRIU cannot dump, found while they run.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

mod descriptors;
mod mounts;
mod unix;

use self::descriptors::{deleted, descriptor};
use self::mounts::Mounts;
use self::unix::UnixSockets;
use crate::container::sockets;

/// What the `processes` of a container use that CRIU cannot dump, in words; `first` is the container's
/// first process. Processes that are gone are skipped.
pub fn found(processes: &[i32], first: i32) -> BTreeSet<String> {
    let directory = |pid: &i32| Path::new("/proc").join(pid.to_string());
    let pids = processes;
    let processes: Vec<PathBuf> = pids.iter().map(directory).collect();
    let first = directory(&first);
    let (mounts, sockets) = (Mounts::of(processes.iter()), UnixSockets::of(&first));
    let (other_root, may_read_limits) = (mounts::other_root(&first), may_read_limits());
    let mut found: BTreeSet<String> = mounts.unknown().collect();
    let lack = |path: &Path| match other_root {
        None => mounts.lack(path),
        Some(_) => None,
    };
    for process in &processes {
        let name = comm(process);
        let mut add = |what: String| found.insert(format!("{name}: {what}"));
        nested(process, &first).map(&mut add);
        if *process == first {
            other_root.clone().map(&mut add);
            mounts::queues(process).map(&mut add);
        }
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        if is_traced(&status) {
            add("is traced by a debugger".to_owned());
        }
        if !may_read_limits && is_of_another_user(&status) {
            add(
                "is not root's, and the agent's root has no CAP_SYS_RESOURCE, without which CRIU cannot read its \
                 limits"
                    .to_owned(),
            );
        }
        for path in entries(&process.join("fd")) {
            descriptor(&path).map(&mut add);
            sockets.leads_out(&path).map(&mut add);
            lack(&path).map(&mut add);
        }
        for name in ["exe", "cwd"] {
            lack(&process.join(name)).map(&mut add);
        }
        let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
        for range in deleted_ranges(&maps) {
            deleted(&process.join("map_files").join(range)).map(&mut add);
        }
    }
    for (pid, what) in sockets::encrypted_by_the_kernel(pids) {
        found.insert(format!("{}: {what}", comm(&directory(&pid))));
    }
    found
}

/// Bytes in files that are open or mapped but deleted, which become part of CRIU's images.
pub fn deleted_bytes(processes: &[i32]) -> u64 {
    let mut files = BTreeSet::new();
    for pid in processes {
        let process = Path::new("/proc").join(pid.to_string());
        let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
        let ranges = deleted_ranges(&maps);
        let mapped = ranges.map(|range| process.join("map_files").join(range));
        for path in entries(&process.join("fd")).into_iter().chain(mapped) {
            let Ok(file) = fs::metadata(&path) else {
                continue;
            };
            if file.is_file() && file.nlink() == 0 {
                files.insert((file.dev(), file.ino(), file.blocks() * 512));
            }
        }
    }
    files.iter().map(|(_, _, bytes)| bytes).sum()
}

/// The name of a process.
fn comm(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    name.trim().to_owned()
}

fn entries(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Kinds of namespaces that all processes of a container must share: CRIU says of others "Can't dump
/// nested ... namespace" (criu/namespaces.c). It can have several of mounts only; of networks one, because
/// it leaves the container's to Podman.
const SHARED: [&str; 9] = [
    "pid",
    "pid_for_children",
    "user",
    "net",
    "uts",
    "ipc",
    "cgroup",
    "time",
    "time_for_children",
];

fn nested(process: &Path, first: &Path) -> Option<String> {
    let of = |process: &Path, kind: &str| fs::read_link(process.join("ns").join(kind)).ok();
    let differs = |kind: &&&str| {
        // A first process may have made itself one. Containers begin with the host's users.
        let ordinary = match **kind {
            "user" => Path::new("/proc/self"),
            _ => first,
        };
        let (its, containers) = (of(process, kind), of(ordinary, kind));
        its.is_some() && containers.is_some() && its != containers
    };
    let kind = SHARED.iter().find(differs)?;
    let kind = kind.trim_end_matches("_for_children");
    Some(format!(
        "has a {kind} namespace of its own within the container"
    ))
}

fn is_traced(status: &str) -> bool {
    field(status, "TracerPid:").is_some_and(|pid| pid.trim() != "0")
}

/// Whether this process may ask for the limits of those of other users: the kernel wants CAP_SYS_RESOURCE for
/// that (`check_prlimit_permission` in kernel/sys.c).
fn may_read_limits() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective =
        field(&status, "CapEff:").and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_none_or(|set| set >> CAP_SYS_RESOURCE & 1 == 1)
}

/// Whether any of its user or group ids is not root's.
fn is_of_another_user(status: &str) -> bool {
    let ids = ["Uid:", "Gid:"]
        .into_iter()
        .filter_map(|name| field(status, name));
    ids.flat_map(str::split_ascii_whitespace)
        .any(|id| id != "0")
}

/// A field of proc_pid_status(5).
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

/// Address ranges, as `/proc/PID/map_files` names them, in which deleted files are mapped.
fn deleted_ranges(maps: &str) -> impl Iterator<Item = String> {
    maps.lines()
        .filter(|line| line.ends_with(" (deleted)"))
        .filter_map(|line| line.split_ascii_whitespace().next())
        .filter_map(|range| {
            // The names there have no leading zeros.
            let (begin, end) = range.split_once('-')?;
            let short = |text| u64::from_str_radix(text, 16).ok();
            Some(format!("{:x}-{:x}", short(begin)?, short(end)?))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_file_with_another_name_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let file = fs::File::create(&one).unwrap();
        file.set_len(5000).unwrap();
        let pid = std::process::id() as i32;
        assert!(found(&[pid], pid).is_empty());
        fs::hard_link(&one, &two).unwrap();
        fs::remove_file(&one).unwrap();
        let name = one.display().to_string();
        assert!(found(&[pid], pid).iter().any(|what| what.contains(&name)));
        fs::remove_file(&two).unwrap();
        assert!(!found(&[pid], pid).iter().any(|what| what.contains(&name)));
        std::io::Write::write_all(&mut &file, &[7; 100_000]).unwrap();
        assert!(deleted_bytes(&[pid]) > 0);
    }

    #[test]
    fn a_process_in_another_pid_namespace_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let process = |name: &str, pid: &str| {
            let process = dir.path().join(name);
            fs::create_dir_all(process.join("ns")).unwrap();
            std::os::unix::fs::symlink(pid, process.join("ns").join("pid")).unwrap();
            process
        };
        let (first, same) = (process("1", "pid:[1]"), process("2", "pid:[1]"));
        assert_eq!(nested(&same, &first), None);
        let said = nested(&process("3", "pid:[2]"), &first).unwrap();
        assert!(said.contains("pid namespace"), "{said}");
    }

    #[test]
    fn traced_processes_are_told_by_their_status() {
        assert!(is_traced("Name:\tx\nTracerPid:\t7\n"));
        assert!(!is_traced("Name:\tx\nTracerPid:\t0\n"));
        assert!(!is_traced(""));
    }

    #[test]
    fn other_users_are_told_from_root() {
        assert!(!is_of_another_user("Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n"));
        assert!(is_of_another_user("Uid:\t0\t0\t0\t0\nGid:\t0\t7\t0\t0\n"));
        assert!(is_of_another_user("Uid:\t9\t9\t9\t9\nGid:\t0\t0\t0\t0\n"));
    }

    #[test]
    fn ranges_of_deleted_files_are_found() {
        let maps = "00400000-00401000 r-xp 00000000 00:11 4711    /tmp/x (deleted)\n\
                    7f0000010000-7f0000014000 rw-s 00000000 00:11 4712    /tmp/y\n";
        assert_eq!(deleted_ranges(maps).collect::<Vec<_>>(), ["400000-401000"]);
    }
}
