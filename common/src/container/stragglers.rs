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

/// The processor time that the live processes called `name` have used so far, in clock ticks; none if
/// there are none.
pub fn processor_time(name: &str) -> Option<u64> {
    let used = processes().filter_map(|pid| ticks(pid, name));
    used.reduce(|sum, ticks| sum + ticks)
}

/// Those called `name` that have a file open in whose path `word` is.
pub fn with_open_file(name: &str, word: &str) -> Vec<i32> {
    let found = processes().filter(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"));
        ticks(*pid, name).is_some()
            && files.into_iter().flatten().flatten().any(|file| {
                let path = fs::read_link(file.path()).unwrap_or_default();
                path.components().any(|part| part.as_os_str() == word)
            })
    });
    found.collect()
}

/// The processor time that a process has used so far, if it is called so and lives.
fn ticks(pid: i32, name: &str) -> Option<u64> {
    // proc_pid_stat(5): number, name in parentheses, state; fields 14 and 15 are the time.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (found, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    if found != name || matches!(fields[0], "Z" | "X") {
        return None;
    }
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(number(11)? + number(12)?)
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
        assert_eq!(program("sh", word), Some(pid));
        assert!(processor_time("sh").is_some());
        assert_eq!(processor_time("no such name"), None);
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(wait_for_program("sh", word, moment).is_ok());
    }
}
