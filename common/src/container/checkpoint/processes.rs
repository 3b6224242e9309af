//! What a container's processes use that CRIU cannot restore everywhere.

use std::collections::BTreeSet;
use std::path::Path;

use super::freezer::Freezer;
use crate::container::apparmor;

/// The processes of the container in `cgroup`; only its first one, `pid`, if there is no such
/// cgroup.
pub fn of(cgroup: &str, pid: i32) -> Vec<i32> {
    let found = Freezer::new(cgroup).map_or_else(|_| Vec::new(), |freezer| freezer.processes());
    match found.is_empty() {
        true => vec![pid],
        false => found,
    }
}

/// Sizes in bytes of the rings that the kernel has mapped into `processes` for asynchronous I/O
/// (io_setup(2)). Processes that are gone are skipped.
pub fn aio_rings(processes: &[i32]) -> BTreeSet<u64> {
    let rings = maps(processes).flat_map(|maps| rings(&maps));
    rings.collect()
}

/// How many bytes `processes` have mapped privately, used or not. Processes that are gone are skipped.
pub fn mapped_bytes(processes: &[i32]) -> u64 {
    let mapped = maps(processes).map(|maps| private_bytes(&maps));
    mapped.fold(0, u64::saturating_add)
}

fn maps(processes: &[i32]) -> impl Iterator<Item = String> {
    let maps = |pid| std::fs::read_to_string(format!("/proc/{pid}/maps"));
    processes.iter().filter_map(move |pid| maps(pid).ok())
}

/// Those of mappings whose permissions end in `p` (proc_pid_maps(5)).
fn private_bytes(maps: &str) -> u64 {
    let private = maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (range, permissions) = (fields.next()?, fields.next()?);
        permissions.ends_with('p').then_some(length(range)?)
    });
    private.fold(0, u64::saturating_add)
}

/// Of a range of addresses as /proc shows it.
fn length(range: &str) -> Option<u64> {
    let (begin, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    address(end)?.checked_sub(address(begin)?)
}

/// fs/aio.c maps a file of a file system of its own, which proc_pid_maps(5) shows as `/[aio]
/// (deleted)`.
fn rings(maps: &str) -> Vec<u64> {
    let mapped = maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (range, file) = (fields.next()?, fields.nth(4)?);
        (file == "/[aio]").then_some(length(range)?)
    });
    mapped.collect()
}

/// How many of `processes`, those of a container, were started from outside by `podman exec`. Its
/// first process, `first`, does not count. A process whose parent ends becomes a child of the first
/// one.
pub fn from_outside(processes: &[i32], first: i32) -> usize {
    let parent = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc_pid_stat(5): the command name before it may contain anything, even parentheses.
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_ascii_whitespace().nth(1)?.parse::<i32>().ok()
    };
    let others = processes.iter().filter(|pid| **pid != first);
    others
        .filter_map(parent)
        .filter(|parent| !processes.contains(parent))
        .count()
}

/// The labels by which a security module confines `processes`; unconfined ones have none.
pub fn labels(processes: &[i32]) -> BTreeSet<String> {
    let read = |pid: &i32| apparmor::label(&Path::new("/proc").join(pid.to_string()));
    processes.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "7f0000000000-7f0000001000 rw-s 00000000 00:11 4711    /[aio] (deleted)\n\
         7f0000010000-7f0000014000 rw-s 00000000 00:11 4712    /[aio] (deleted)\n\
         7f0000020000-7f0000021000 rw-p 00000000 00:00 0 \n\
         7f0000030000-7f0000031000 rw-p 00000000 00:00 0       /srv/[aio]\n";

    #[test]
    fn only_rings_are_counted() {
        assert_eq!(rings(MAPS), [0x1000, 0x4000]);
        assert!(rings("nonsense").is_empty());
    }

    #[test]
    fn what_is_shared_is_not_private() {
        assert_eq!(private_bytes(MAPS), 0x2000);
        assert_eq!(private_bytes("nonsense"), 0);
        let own = mapped_bytes(&[std::process::id() as i32]);
        assert!(own > 1 << 20, "{own}");
    }

    #[test]
    fn what_came_from_outside_is_told_from_children() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let (own, pid) = (std::process::id() as i32, child.id() as i32);
        assert_eq!(from_outside(&[own, pid], own), 0);
        // This process plays conmon's part.
        assert_eq!(from_outside(&[1, pid], 1), 1);
        assert_eq!(from_outside(&[pid], pid), 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_container_without_a_cgroup_has_one_process() {
        assert_eq!(of("", 7), [7]);
        assert!(aio_rings(&[std::process::id() as i32]).is_empty());
    }
}
