//! What a killed agent left at work.
//!
//! The programs that an agent has started do not die with it: a Podman or an OCI runtime goes on to
//! its end. What they work on must not be put back under their hands.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Tells the programs that are not told by their arguments which scratch space they work for.
pub const WORK: &str = "LIVE_MIGRATION_WORK";

/// Pause between looks.
const POLL: Duration = Duration::from_millis(20);

/// A program is still at work after the limit.
#[derive(Debug, thiserror::Error)]
#[error("process {pid} (`{command}`) still works on the migration")]
pub struct StillAtWork {
    /// Its id.
    pub pid: i32,
    /// How it was called.
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

/// Waits until no process names the scratch space `work` in its arguments any more, and none has it
/// in its environment as [`WORK`]. Blocks.
///
/// # Errors
/// If there still is one after `limit`.
pub fn wait(work: &Path, limit: Duration) -> Result<(), StillAtWork> {
    wait_until_none(|| find(work), limit)
}

/// Waits until no process called `program` names `word` in its arguments any more. Blocks.
///
/// # Errors
/// If there still is one after `limit`.
pub fn wait_for_program(program: &str, word: &str, limit: Duration) -> Result<(), StillAtWork> {
    wait_until_none(|| find_program(program, word), limit)
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

fn find(work: &Path) -> Option<StillAtWork> {
    let work = work.as_os_str().as_bytes();
    let marked = [WORK.as_bytes(), b"=", work].concat();
    let mentions = |file: &[u8], text: &[u8]| file.windows(text.len()).any(|w| w == text);
    processes().find_map(|pid| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let arguments = read("cmdline");
        let found =
            mentions(&arguments, work) || read("environ").split(|b| *b == 0).any(|v| v == marked);
        (found && pid != std::process::id() as i32).then(|| StillAtWork::new(pid, &arguments))
    })
}

fn find_program(program: &str, word: &str) -> Option<StillAtWork> {
    processes().find_map(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = arguments.split(|byte| *byte == 0);
        let name = Path::new(OsStr::from_bytes(words.next()?)).file_name()?;
        (name == program && words.any(|each| each == word.as_bytes()))
            .then(|| StillAtWork::new(pid, &arguments))
    })
}

/// The process called `program` that has `word` among its arguments, if there is one.
pub fn program(program: &str, word: &str) -> Option<i32> {
    find_program(program, word).map(|found| found.pid)
}

/// Whether any process called `name` lives.
pub fn lives(name: &str) -> bool {
    processes().any(|pid| {
        // proc_pid_stat(5): number, name in parentheses, state.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.split_once('(').map_or("", |(_, after)| after);
        after.rsplit_once(") ").is_some_and(|(found, rest)| {
            found == name && !rest.starts_with('Z') && !rest.starts_with('X')
        })
    })
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

    /// Finds it once it has become what it is to be: a new process has no arguments for a moment.
    fn found(work: &Path) -> i32 {
        let moment = Duration::from_millis(60);
        let mut tries = 0..100;
        let still = tries.find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            wait(work, moment).err()
        });
        still.expect("it is found").pid
    }

    #[test]
    fn a_process_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        let moment = Duration::from_millis(60);
        assert!(wait(&work, moment).is_ok());

        let named = ["-c", "sleep 9; :", &format!("{}/x", work.display())];
        let mut by_name = start(Command::new("sh").args(named));
        assert_eq!(found(&work), by_name.id() as i32);
        by_name.kill().unwrap();
        by_name.wait().unwrap();

        let mut marked = start(Command::new("sleep").arg("9").env(WORK, &work));
        assert_eq!(found(&work), marked.id() as i32);
        marked.kill().unwrap();
        marked.wait().unwrap();
        assert!(wait(&work, moment).is_ok());
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
        assert_eq!(program("sh", word), Some(pid));
        assert!(lives("sleep"));
        assert!(!lives("no such name"));
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(wait_for_program("sh", word, moment).is_ok());
    }
}
