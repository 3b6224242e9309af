//! What a container's processes use that CRIU cannot dump, found while they run.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Descriptors without a file that CRIU can dump (`dump_one_file` in criu/files.c).
const KNOWN: [&str; 8] = [
    "[eventpoll]",
    "[eventfd]",
    "inotify",
    "[fanotify]",
    "[signalfd]",
    "[timerfd]",
    "[pidfd]",
    "bpf-map",
];

/// Major numbers of character devices that CRIU can dump: memory (/dev/null and the like), consoles and
/// terminals (`dump_chrdev` in criu/files.c).
const KNOWN_DEVICES: [u64; 3] = [1, 4, 5];
/// Major numbers of pseudo-terminals.
const PSEUDO_TERMINALS: std::ops::RangeInclusive<u64> = 136..=143;
/// Major and minor number of tun.
const TUN: (u64, u64) = (10, 200);

/// What the `processes` of a container use that CRIU cannot dump, in words; `first` is the container's
/// first process. Processes that are gone are skipped.
pub fn found(processes: &[i32], first: i32) -> BTreeSet<String> {
    let first = Path::new("/proc").join(first.to_string());
    let mut found = BTreeSet::new();
    for pid in processes {
        let process = Path::new("/proc").join(pid.to_string());
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let name = name.trim();
        let mut add = |what: String| found.insert(format!("{name}: {what}"));
        nested(&process, &first).map(&mut add);
        if fs::read_to_string(process.join("status")).is_ok_and(|status| is_traced(&status)) {
            add("is traced by a debugger".to_owned());
        }
        for path in entries(&process.join("fd")) {
            descriptor(&path).map(&mut add);
        }
        let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
        for range in deleted_ranges(&maps) {
            deleted(&process.join("map_files").join(range)).map(&mut add);
        }
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
    let mut lines = status.lines();
    let tracer = lines.find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}

/// What cannot be dumped of the file behind a descriptor in `/proc/PID/fd`.
fn descriptor(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let target = target.to_string_lossy();
    if let Some(kind) = target.strip_prefix("anon_inode:") {
        return (!KNOWN.contains(&kind)).then(|| match kind {
            "[io_uring]" => "uses io_uring".to_owned(),
            kind => format!("has a descriptor of the kind {kind} open"),
        });
    }
    let file = fs::metadata(path).ok()?;
    let (major, minor) = (nix::libc::major(file.rdev()), nix::libc::minor(file.rdev()));
    if is_unknown_device(&file.file_type(), major.into(), minor.into()) {
        return Some(format!("has the device {target} open"));
    }
    deleted(path)
}

fn is_unknown_device(kind: &fs::FileType, major: u64, minor: u64) -> bool {
    if !kind.is_char_device() {
        return kind.is_block_device();
    }
    let known = KNOWN_DEVICES.contains(&major) || PSEUDO_TERMINALS.contains(&major);
    !known && (major, minor) != TUN
}

/// A file that was deleted under one of its names and is open under that one: CRIU would have to give it
/// a name again.
fn deleted(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let name = target.to_str()?.strip_suffix(" (deleted)")?.to_owned();
    let file = fs::metadata(path).ok()?;
    (file.is_file() && file.nlink() > 0)
        .then(|| format!("has {name} open, which was deleted there and has another name"))
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
    fn ordinary_descriptors_are_fine() {
        let dir = tempfile::tempdir().unwrap();
        let link = |target: &str| {
            let path = dir.path().join("link");
            let _ = fs::remove_file(&path);
            std::os::unix::fs::symlink(target, &path).unwrap();
            path
        };
        assert_eq!(descriptor(&link("anon_inode:[eventpoll]")), None);
        assert_eq!(descriptor(&link("/dev/null")), None);
        assert_eq!(
            descriptor(&link("anon_inode:[io_uring]")).unwrap(),
            "uses io_uring"
        );
        assert!(descriptor(&link("anon_inode:[perf_event]")).is_some());
    }

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
    fn ranges_of_deleted_files_are_found() {
        let maps = "00400000-00401000 r-xp 00000000 00:11 4711    /tmp/x (deleted)\n\
                    7f0000010000-7f0000014000 rw-s 00000000 00:11 4712    /tmp/y\n";
        assert_eq!(deleted_ranges(maps).collect::<Vec<_>>(), ["400000-401000"]);
    }
}
