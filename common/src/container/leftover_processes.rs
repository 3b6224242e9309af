//! Programs that a killed agent left running.
//!
//! The programs that an agent has started do not die with it: a Podman or an OCI runtime runs to
//! its end. What it is working on must not be undone while it runs.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Environment variable that names the scratch space, for programs whose arguments do not.
pub const WORK: &str = "LIVE_MIGRATION_WORK";

/// Poll interval.
const POLL: Duration = Duration::from_millis(20);

/// A program is still running after the limit.
#[derive(Debug, thiserror::Error)]
#[error("process {pid} (`{command}`) is still working on the migration")]
pub struct StillAtWork {
    /// Its id.
    pub pid: i32,
    /// Its command line.
    pub command: String,
}

impl StillAtWork {
    fn new(pid: i32, arguments: &[u8]) -> Self {
        StillAtWork {
            pid,
            command: String::from_utf8_lossy(arguments).replace('\0', " "),
        }
    }
}

/// File names of the programs that agents start, and of those that these start. Other programs may
/// mention the scratch space as they like, such as a pager that shows a log in it.
const PROGRAMS: [&str; 7] = [
    "podman",
    "conmon",
    "gate-conmon",
    "netavark",
    "runc",
    "crun",
    "criu",
];

/// Waits until none of the programs that agents start names the scratch space `work` in its arguments
/// any more, or has it in its environment as [`WORK`]. Only root's programs count: what other users
/// run cannot work on a migration, and must not delay it. Blocks.
///
/// # Errors
/// If one is still running after `limit`.
pub fn wait(work: &Path, limit: Duration) -> Result<(), StillAtWork> {
    wait_until_none(|| find(work, &PROGRAMS), limit)
}

/// Waits until no process called `program` names `word` in its arguments any more. Blocks.
///
/// # Errors
/// If one is still running after `limit`.
pub fn wait_for_program(program: &str, word: &str, limit: Duration) -> Result<(), StillAtWork> {
    wait_until_none(|| find_program(program, &[word]), limit)
}

fn wait_until_none(
    find: impl Fn() -> Option<StillAtWork>,
    limit: Duration,
) -> Result<(), StillAtWork> {
    let deadline = Instant::now() + limit;
    loop {
        match find() {
            None => return Ok(()),
            Some(still) if Instant::now() > deadline => return Err(still),
            Some(_) => std::thread::sleep(POLL),
        }
    }
}

fn find(work: &Path, programs: &[&str]) -> Option<StillAtWork> {
    let work = work.as_os_str().as_bytes();
    let marked = [WORK.as_bytes(), b"=", work].concat();
    let mentions = |file: &[u8], text: &[u8]| file.windows(text.len()).any(|w| w == text);
    processes().find_map(|pid| {
        // proc(5): owned by the effective user, or by root if the process is not dumpable.
        let directory = PathBuf::from(format!("/proc/{pid}"));
        if fs::metadata(&directory).ok()?.uid() != 0 {
            return None;
        }
        let read = |file: &str| fs::read(directory.join(file)).unwrap_or_default();
        let arguments = read("cmdline");
        let program = file_name(&arguments)?;
        if !programs.iter().any(|known| program == *known) {
            return None;
        }
        let found =
            mentions(&arguments, work) || read("environ").split(|b| *b == 0).any(|v| v == marked);
        found.then(|| StillAtWork::new(pid, &arguments))
    })
}

/// The file name of the program with these arguments.
fn file_name(arguments: &[u8]) -> Option<&OsStr> {
    let first = arguments.split(|byte| *byte == 0).next()?;
    Path::new(OsStr::from_bytes(first)).file_name()
}

fn find_program(program: &str, words: &[&str]) -> Option<StillAtWork> {
    processes().find_map(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let has = |word: &&str| {
            let mut all = arguments.split(|byte| *byte == 0).skip(1);
            all.any(|each| each == word.as_bytes())
        };
        (file_name(&arguments)? == Path::new(program).file_name()? && words.iter().all(has))
            .then(|| StillAtWork::new(pid, &arguments))
    })
}

/// The process called `program` that restores the container `id`, or was told to have it restored.
pub fn at_restore(program: &str, id: &str) -> Option<i32> {
    let found = find_program(program, &[id, "restore"]);
    found
        .or_else(|| find_program(program, &[id, "--restore"]))
        .map(|found| found.pid)
}

/// A process, from proc_pid_stat(5).
#[derive(Debug, Clone)]
pub struct Process {
    /// The first 15 bytes of its file name.
    pub name: String,
    /// The id of its parent process.
    pub parent: i32,
    /// The processor time it has used so far, in clock ticks.
    pub ticks: u64,
    state: u8,
}

impl Process {
    /// The process with this id, if there is one.
    pub fn read(pid: i32) -> Option<Self> {
        // Number, name in parentheses, state, parent; fields 14 and 15 are the time.
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Process {
            name: name.to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            ticks: number(11)? + number(12)?,
            state: *fields.first()?.as_bytes().first()?,
        })
    }

    /// Whether it can still do something: a process that has ended remains until its parent has waited
    /// for it.
    pub fn lives(&self) -> bool {
        !matches!(self.state, b'Z' | b'X')
    }
}

/// This process and all its descendants, by id.
pub fn family(root: i32) -> HashMap<i32, Process> {
    let mut all: HashMap<i32, Process> = processes()
        .filter_map(|pid| Some((pid, Process::read(pid)?)))
        .collect();
    let descends = |pid: &i32| {
        let line = std::iter::successors(Some(*pid), |pid| Some(all.get(pid)?.parent));
        // Reading /proc takes a while, so a reused id could make this a loop.
        line.take(all.len()).any(|pid| pid == root)
    };
    let others: Vec<i32> = all.keys().filter(|pid| !descends(pid)).copied().collect();
    for other in others {
        all.remove(&other);
    }
    all
}

/// The processes called `name` that have a file open whose path contains `word`.
pub fn with_open_file(name: &str, word: &str) -> Vec<i32> {
    let found = processes().filter(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"));
        Process::read(*pid).is_some_and(|process| process.name == name && process.lives())
            && files.into_iter().flatten().flatten().any(|file| {
                let path = fs::read_link(file.path()).unwrap_or_default();
                path.components().any(|part| part.as_os_str() == word)
            })
    });
    found.collect()
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn start(command: &mut Command) -> Child {
        command.spawn().expect("it starts")
    }

    const KNOWN: [&str; 2] = ["sh", "sleep"];

    /// Finds it once it has become the program: for a moment, a new process has no arguments.
    fn found(work: &Path) -> i32 {
        let moment = Duration::from_millis(60);
        let mut tries = 0..100;
        let still = tries.find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            wait_until_none(|| find(work, &KNOWN), moment).err()
        });
        still.expect("it is found").pid
    }

    #[test]
    fn a_process_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        assert!(find(&work, &KNOWN).is_none());

        let named = ["-c", "sleep 9; :", &format!("{}/x", work.display())];
        let mut by_name = start(Command::new("sh").args(named));
        assert_eq!(found(&work), by_name.id() as i32);
        assert!(wait(&work, Duration::ZERO).is_ok(), "no program of ours");
        by_name.kill().unwrap();
        by_name.wait().unwrap();

        let mut marked = start(Command::new("sleep").arg("9").env(WORK, &work));
        assert_eq!(found(&work), marked.id() as i32);
        marked.kill().unwrap();
        marked.wait().unwrap();
        assert!(find(&work, &KNOWN).is_none());
    }

    #[test]
    fn a_process_is_found_by_what_it_has_open() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create(dir.path().join("open-5e1c")).unwrap();
        let mut holder = start(Command::new("sleep").arg("9").stdin(file));
        let mut tries = 0..100;
        let found = tries.find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            with_open_file("sleep", "open-5e1c").first().copied()
        });
        assert_eq!(found, Some(holder.id() as i32));
        assert!(with_open_file("sleep", "open").is_empty());
        holder.kill().unwrap();
        holder.wait().unwrap();
    }

    #[test]
    fn a_program_is_waited_for() {
        let (moment, word) = (Duration::from_millis(60), "straggler-7f3a");
        let mut other = start(Command::new("sh").args(["-c", "sleep 9; :", word]));
        assert!(wait_for_program("sleep", word, moment).is_ok());
        let mut tries = 0..100;
        let still = tries.find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            wait_for_program("sh", word, moment).err()
        });
        let pid = other.id() as i32;
        assert_eq!(still.expect("it is found").pid, pid);
        assert_eq!(at_restore("sh", word), None);
        assert!(family(std::process::id() as i32).contains_key(&pid));
        assert!(!family(pid).contains_key(&(std::process::id() as i32)));
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(wait_for_program("sh", word, moment).is_ok());
    }
}
