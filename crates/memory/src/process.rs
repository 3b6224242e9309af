//! The processes of a container, and the numbers that CRIU's images know them by.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The processes could not be found.
#[derive(Debug, thiserror::Error)]
pub enum ProcessesError {
    /// A file of the cgroup or of /proc could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The container's first process is gone, so nobody can say how its processes are numbered.
    #[error("the container's first process, {0}, is gone")]
    FirstGone(i32),
}

/// A process of the container that has memory of its own.
#[derive(Debug)]
pub struct Process {
    /// Its number here.
    pub pid: i32,
    /// Its number in the container's pid namespace, as in the names of CRIU's images.
    pub inside: u32,
    /// Names this process even if its number is used again. Readable once it has ended.
    handle: OwnedFd,
}

impl Process {
    /// The process `pid`, which the container knows as `inside`, or nothing if there is none.
    pub fn open(pid: i32, inside: u32) -> Option<Process> {
        // SAFETY: no pointers are passed.
        let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let handle = i32::try_from(handle).ok().filter(|fd| *fd >= 0)?;
        Some(Process {
            pid,
            inside,
            // SAFETY: the descriptor was just made and belongs to nobody else.
            handle: unsafe { OwnedFd::from_raw_fd(handle) },
        })
    }

    /// Whether it still exists, so that its number here still means it.
    ///
    /// To be asked *after* something was read by number: the number cannot have meant another process then.
    pub fn exists(&self) -> bool {
        let (fd, none) = (self.handle.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: a null pointer is allowed, and signal 0 is only a question.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, 0, none, 0) == 0 }
    }

    /// A pidfd of it.
    pub(crate) fn handle(&self) -> &OwnedFd {
        &self.handle
    }

    /// The file `name` in its directory of /proc.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

/// All processes in `cgroup` and below that have memory, by their number inside. `first` is the container's first
/// process (the one that its pid namespace begins with, unless it shares the host's).
///
/// The threads of a process are one process here (cgroup.procs names thread group leaders). A child of vfork(2), which has its
/// parent's memory until it calls exec(2), is left out: its memory is its parent's, and CRIU does not dump both (`dump_task_kobj_ids`
/// in criu/cr-dump.c). Zombies have no memory. Processes that end meanwhile are left out.
///
/// Source of the numbers: `NSpid` in /proc/PID/status, proc_pid_status(5): one number for each namespace from that of /proc down.
///
/// # Errors
/// If the cgroup cannot be read, or if `first` is gone.
pub fn of_cgroup(cgroup: &Path, first: i32) -> Result<BTreeMap<u32, Process>, ProcessesError> {
    let level = Status::read(first)
        .ok_or(ProcessesError::FirstGone(first))?
        .numbers
        .len();
    let mut pids = Vec::new();
    collect(cgroup, &mut pids)?;
    let mut found: BTreeMap<i32, (Process, Status)> = BTreeMap::new();
    for pid in pids {
        // The handle first: what is read afterwards is then either of this process or of none.
        let (Some(process), Some(status)) = (Process::open(pid, 0), Status::read(pid)) else {
            continue;
        };
        if status.has_memory && process.exists() {
            found.insert(pid, (process, status));
        }
    }
    let shares = |pid: &i32, status: &Status| {
        found.contains_key(&status.parent) && same_memory(*pid, status.parent)
    };
    let borrowed: Vec<i32> = found
        .iter()
        .filter(|(pid, (_, status))| shares(pid, status))
        .map(|(pid, _)| *pid)
        .collect();
    for pid in borrowed {
        found.remove(&pid);
    }
    let numbered = found.into_values().filter_map(|(process, status)| {
        let inside = *status.numbers.get(level - 1)?;
        Some((inside, Process { inside, ..process }))
    });
    Ok(numbered.collect())
}

/// Adds the processes of `cgroup` and of those below it.
fn collect(cgroup: &Path, pids: &mut Vec<i32>) -> Result<(), ProcessesError> {
    let error = |path: &Path| {
        let path = path.to_owned();
        move |source| ProcessesError::Read { path, source }
    };
    let list = cgroup.join("cgroup.procs");
    let text = std::fs::read_to_string(&list).map_err(error(&list))?;
    // 0 stands for a process outside this pid namespace.
    pids.extend(
        text.lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid: &i32| *pid > 0),
    );
    for entry in std::fs::read_dir(cgroup).map_err(error(cgroup))? {
        let entry = entry.map_err(error(cgroup))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            match collect(&entry.path(), pids) {
                // Removed since the directory was read.
                Err(ProcessesError::Read { source, .. }) if is_gone(&source) => {}
                collected => collected?,
            }
        }
    }
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// What /proc/PID/status says of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// Its numbers in the namespaces, from that of /proc down.
    pub(crate) numbers: Vec<u32>,
    pub(crate) parent: i32,
    /// A zombie has none.
    pub(crate) has_memory: bool,
    /// Who traces it; 0 nobody.
    pub(crate) tracer: i32,
    /// `R`, `S`, `T` and the like.
    pub(crate) state: char,
    /// Whether a seccomp filter decides about its system calls.
    pub(crate) filtered: bool,
}

impl Status {
    pub(crate) fn read(pid: i32) -> Option<Status> {
        Status::parse(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    fn parse(text: &str) -> Option<Status> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        let numbers: Option<Vec<u32>> = field("NSpid")?
            .split_ascii_whitespace()
            .map(|number| number.parse().ok())
            .collect();
        Some(Status {
            numbers: numbers.filter(|numbers| !numbers.is_empty())?,
            parent: field("PPid")?.parse().ok()?,
            has_memory: field("VmSize").is_some(),
            tracer: field("TracerPid")?.parse().ok()?,
            state: field("State")?.chars().next()?,
            filtered: field("Seccomp").is_some_and(|mode| mode != "0"),
        })
    }
}

/// Whether two processes have one and the same memory (kcmp(2)).
fn same_memory(one: i32, other: i32) -> bool {
    const KCMP_VM: i32 = 1;
    // SAFETY: no pointers are passed.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read() {
        let text = "Name:\tx: NSpid:\t9\nState:\tS (sleeping)\nPPid:\t7\nTracerPid:\t0\nNSpid:\t812\t12\t1\n\
                    VmSize:\t  100 kB\nSeccomp:\t2\n";
        let status = Status::parse(text).unwrap();
        assert_eq!(status.numbers, [812, 12, 1]);
        assert_eq!((status.parent, status.tracer, status.state), (7, 0, 'S'));
        assert!(status.has_memory && status.filtered);
        assert_eq!(Status::parse("Name:\tx\n"), None);
    }

    #[test]
    fn a_process_that_has_ended_does_not_exist() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::open(child.id() as i32, 1).unwrap();
        assert!(process.exists());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.exists());
        assert!(Process::open(child.id() as i32, 1).is_none());
    }
}
