//! The container's cgroup: freeze, thaw, kill, memory in use. cgroup v2 only.
//!
//! The freeze is held by the kernel, not by a process: the death of the agent thaws nothing and
//! kills nothing (Documentation/admin-guide/cgroup-v2.rst, `cgroup.freeze`).

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::container::runtime::{self, CGROUP_MOUNT};

/// Why containers cannot be frozen on this host; `None` if they can.
pub fn problem() -> Option<String> {
    let mounted = Path::new(CGROUP_MOUNT).join("cgroup.controllers").exists();
    (!mounted).then(|| {
        format!("not mounted at {CGROUP_MOUNT}: boot with systemd.unified_cgroup_hierarchy=1")
    })
}

/// How long the kernel may take to stop every task, for example one in an uninterruptible sleep.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);

/// A container's cgroup.
#[derive(Debug, Clone)]
pub struct Freezer {
    directory: PathBuf,
}

/// The cgroup cannot be frozen or thawed.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// No cgroup v2 freezer there.
    #[error("{} has no cgroup.freeze: cgroup v2 is needed", .0.display())]
    Missing(PathBuf),
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Some task did not stop in time.
    #[error("the container did not freeze within {} s", FREEZE_LIMIT.as_secs())]
    Slow,
}

impl Freezer {
    /// The freezer of a running container that Podman says is in `cgroup`. What the runtime says
    /// takes precedence: see [`runtime::cgroup`].
    pub fn of_running(runtime: &str, id: &str, cgroup: &str) -> Result<Self, FreezeError> {
        match runtime::cgroup(runtime, id) {
            Some(own) => Self::new(&own),
            None => Self::new(cgroup),
        }
    }

    /// The freezer of `cgroup`, a path below the cgroup mount.
    pub fn new(cgroup: &str) -> Result<Self, FreezeError> {
        let directory = Path::new(CGROUP_MOUNT).join(cgroup.trim_start_matches('/'));
        if cgroup.trim_matches('/').is_empty() || !directory.join("cgroup.freeze").exists() {
            return Err(FreezeError::Missing(directory));
        }
        Ok(Freezer { directory })
    }

    /// The freezer of the container with this id, if there is one, in whatever slice or service: Podman
    /// and its runtimes name the cgroup after the container.
    pub fn of_container(id: &str) -> Option<Self> {
        let names = names(id);
        let mut directories = vec![PathBuf::from(CGROUP_MOUNT)];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                if names.iter().any(|name| **name == *entry.file_name()) {
                    let directory = entry.path();
                    return Some(Freezer { directory });
                }
                directories.push(entry.path());
            }
        }
        None
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Stops every task of the cgroup and its descendants, and waits until they are stopped.
    ///
    /// Undone by [`Freezer::thaw`]. Blocks the calling thread, usually for well under 1 ms.
    pub fn freeze(&self) -> Result<(), FreezeError> {
        self.write("cgroup.freeze", "1")?;
        let events = self.directory.join("cgroup.events");
        let deadline = Instant::now() + FREEZE_LIMIT;
        loop {
            let text = std::fs::read_to_string(&events).map_err(|source| FreezeError::Io {
                path: events.clone(),
                source,
            })?;
            if text.lines().any(|line| line == "frozen 1") {
                return Ok(());
            }
            if Instant::now() > deadline {
                self.write("cgroup.freeze", "0")?;
                return Err(FreezeError::Slow);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Tells every task to stop, and does not wait: some may wait for what does not come. Undone by
    /// [`Freezer::thaw`].
    pub fn stop(&self) -> Result<(), FreezeError> {
        self.write("cgroup.freeze", "1")
    }

    /// Waits until no process traces one of the tasks, as CRIU does while it dumps; it goes on if
    /// only its runtime was killed. Returns whether that was so before `limit`.
    pub fn wait_untraced(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while !self.tracers().is_empty() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// The processes that trace any thread of the tasks.
    pub fn tracers(&self) -> BTreeSet<i32> {
        self.processes().into_iter().flat_map(tracers).collect()
    }

    /// The processes in it and below it.
    pub fn processes(&self) -> Vec<i32> {
        processes(&self.directory)
    }

    /// Kills every process in it and below it, frozen or not. Not undone.
    pub fn kill(&self) -> Result<(), FreezeError> {
        self.write("cgroup.kill", "1")
    }

    /// Lets the tasks run again. Does nothing if the cgroup is gone or not frozen.
    pub fn thaw(&self) -> Result<(), FreezeError> {
        if !self.directory.exists() {
            return Ok(());
        }
        self.write("cgroup.freeze", "0")
    }

    /// Whether it was told to freeze and has not been told to thaw since.
    pub fn frozen(&self) -> Result<bool, FreezeError> {
        let path = self.directory.join("cgroup.freeze");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim() == "1"),
            Err(source) => Err(FreezeError::Io { path, source }),
        }
    }

    fn write(&self, file: &str, value: &str) -> Result<(), FreezeError> {
        let path = self.directory.join(file);
        std::fs::write(&path, value).map_err(|source| FreezeError::Io { path, source })
    }
}

/// Possible names of a container's cgroup: under systemd, without systemd, and in a service with a split
/// cgroup (`--cgroups=split`; libpod/container_internal_linux.go, `getOCICgroupPath`). Other cgroups
/// also have the id in their names: those of conmon and of health checks.
fn names(id: &str) -> [String; 3] {
    [
        format!("libpod-{id}.scope"),
        format!("libpod-{id}"),
        format!("libpod-payload-{id}"),
    ]
}

/// Memory of a container, in bytes, that moves with it: if the memory controller is on, the cgroup's
/// count without the page cache, otherwise the resident sets of its processes.
pub fn memory_bytes(cgroup: &str, pid: i32) -> u64 {
    let directory = Path::new(CGROUP_MOUNT).join(cgroup.trim_start_matches('/'));
    if let Some(bytes) = std::fs::read_to_string(directory.join("memory.stat"))
        .ok()
        .and_then(|text| own_memory(&text))
    {
        return bytes;
    }
    let pids = processes(&directory);
    let pids = if pids.is_empty() { vec![pid] } else { pids };
    pids.iter().map(|pid| resident_bytes(*pid)).sum()
}

/// The part of `memory.stat` that exists nowhere else: memory of processes and of in-memory file
/// systems, and what the kernel keeps for them (Documentation/admin-guide/cgroup-v2.rst).
fn own_memory(stat: &str) -> Option<u64> {
    let value = |name: &str| {
        let mut lines = stat.lines();
        lines.find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(' ')?
                .parse::<u64>()
                .ok()
        })
    };
    Some(value("anon")? + value("shmem").unwrap_or(0) + value("kernel").unwrap_or(0))
}

fn processes(directory: &Path) -> Vec<i32> {
    let mut found: Vec<i32> = std::fs::read_to_string(directory.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.parse().ok())
        .collect();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(processes(&entry.path()));
        }
    }
    found
}

/// Of all threads of the process: proc_pid_status(5).
fn tracers(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tracer = |thread: std::fs::DirEntry| {
        let status = std::fs::read_to_string(thread.path().join("status")).ok()?;
        let tracer = status.lines().find_map(|l| l.strip_prefix("TracerPid:"))?;
        tracer.trim().parse().ok().filter(|pid| *pid != 0)
    };
    threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(tracer)
        .collect()
}

fn resident_bytes(pid: i32) -> u64 {
    // proc_pid_statm(5): the second field is the resident set, in pages.
    let pages: u64 = std::fs::read_to_string(format!("/proc/{pid}/statm"))
        .ok()
        .and_then(|t| t.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0);
    pages
        * nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .unwrap_or(4096) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_cache_is_no_memory_of_the_container() {
        let stat = "anon 1000\nfile 9000000\nkernel 30\nkernel_stack 10\nshmem 200\n";
        assert_eq!(own_memory(stat), Some(1230));
        assert_eq!(own_memory("file 9\n"), None);
    }
}
