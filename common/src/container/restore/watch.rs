//! Whether a restore that has begun can still succeed.
//!
//! Podman reports a failure only after it has cleaned up, and before that the runtime has: if systemd
//! does not answer, runc alone waits for half a minute (`stopUnit` in opencontainers' cgroups/systemd).
//! The processes that do the work show it at once: CRIU by the last line of its log, conmon and CRIU's
//! worker by ending.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::container::leftover_processes::{self, Process};

/// Poll interval for the log.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// Poll interval for the processes, which cost more to look at.
const PROCESSES: Duration = Duration::from_millis(500);

/// How long a restore may make no progress. Progress means processor time used by conmon and its
/// descendants, or growth of CRIU's log. Before CRIU begins and after it ends, steps take milliseconds;
/// reading from a slow disk still costs processor time.
const STALL: Duration = Duration::from_secs(30);

/// What CRIU's processes are called.
const CRIU: &str = "criu";

/// How CRIU's log ends if it got as far as creating processes (criu/cr-restore.c).
const FAILED: &str = "Restoring FAILED.";

/// How errors in the log begin, after the time.
const ERROR: &str = " Error (";

/// A line near the log's end (criu/cr-restore.c).
const FINISHED: &str = "Restore finished successfully.";

/// How many bytes at the end of the log are searched for these.
const TAIL: u64 = 4096;

/// Why a restore can no longer succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub(crate) enum End {
    /// CRIU has given up, in order.
    #[strum(to_string = "CRIU gave up")]
    Failed,
    /// conmon has ended.
    #[strum(to_string = "conmon ended")]
    Conmon,
    /// CRIU has ended without a word, but the runtime has not.
    #[strum(to_string = "CRIU was killed")]
    Killed,
    /// The pager has ended.
    #[strum(to_string = "the process that gives it its memory ended")]
    Pager,
    /// Nothing has happened for [`STALL`].
    #[strum(to_string = "nothing happened any more")]
    Stalled,
}

/// Watches a restore.
pub(crate) struct RestoreWatch {
    log: PathBuf,
    conmon_pid: PathBuf,
    conmon: Option<i32>,
    /// The runtime's process name.
    runtime: String,
    /// Whether CRIU was gone at the last look.
    gone: bool,
    looked: Instant,
    progress: (u64, u64),
    progressed: Instant,
}

impl RestoreWatch {
    /// For the restore of a container with this `bundle`, whose conmon writes its process id to
    /// `conmon_pid`.
    pub(crate) fn new(bundle: &Path, conmon_pid: &Path, runtime: &str) -> Self {
        let runtime = Path::new(runtime).file_name().unwrap_or_default();
        let runtime = runtime.to_string_lossy().into_owned();
        let now = Instant::now();
        RestoreWatch {
            log: bundle.join("restore.log"),
            conmon_pid: conmon_pid.to_owned(),
            conmon: None,
            runtime,
            gone: false,
            looked: now,
            progress: (0, 0),
            progressed: now,
        }
    }

    /// Why it can no longer succeed, if so.
    pub(crate) fn look(&mut self) -> Option<End> {
        let tail = tail(&self.log);
        if tail.trim_end().ends_with(FAILED) {
            return Some(End::Failed);
        }
        if self.conmon.is_none() {
            // Written once conmon has detached from its parent.
            let written = fs::read_to_string(&self.conmon_pid).unwrap_or_default();
            self.conmon = written.trim().parse().ok();
        }
        if let Some(conmon) = self.conmon
            && Process::read(conmon).is_none_or(|process| !process.lives())
        {
            return Some(End::Conmon);
        }
        let failed = tail.contains(ERROR) && !tail.contains(FINISHED);
        if self.looked.elapsed() < if failed { LOOK } else { PROCESSES } {
            return None;
        }
        self.looked = Instant::now();
        let family = self
            .conmon
            .map(leftover_processes::family)
            .unwrap_or_default();
        let gone = self.worker_is_gone(&family, &self.runtime);
        // The log does not say that CRIU has ended if it did not get as far as creating processes.
        if gone && failed {
            return Some(End::Failed);
        }
        // The runtime may be about to report the end itself.
        if std::mem::replace(&mut self.gone, gone) && gone && !tail.contains(FINISHED) {
            return Some(End::Killed);
        }
        let used = family.values().map(|process| process.ticks).sum();
        let written = fs::metadata(&self.log).map_or(0, |log| log.len());
        if std::mem::replace(&mut self.progress, (used, written)) != (used, written) {
            self.progressed = Instant::now();
        }
        (self.progressed.elapsed() > STALL).then_some(End::Stalled)
    }

    /// Whether CRIU has begun and its worker is gone while the runtime is still there. The worker is a
    /// child of the runtime. The processes it restores have its name for a while, and become conmon's
    /// children when it ends.
    fn worker_is_gone(&self, family: &HashMap<i32, Process>, runtime: &str) -> bool {
        let is_worker = |process: &Process| {
            let parent = family.get(&process.parent);
            process.name == CRIU
                && process.lives()
                && Some(process.parent) != self.conmon
                && parent.is_some_and(|parent| parent.name != CRIU)
        };
        let begun = fs::metadata(&self.log).is_ok_and(|log| log.len() > 0);
        begun
            && !family.values().any(is_worker)
            && family.values().any(|process| process.name == runtime)
    }
}

/// The last error in the runtime's log, a file of JSON lines that Podman has it write (`ociLog` in
/// libpod/oci_conmon_common.go).
pub(crate) fn runtime_error(log: &Path) -> Option<String> {
    last_error(&String::from_utf8_lossy(&fs::read(log).ok()?))
}

pub(crate) fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut errors = lines.filter(|line: &Line| line.level == "error");
    errors.next_back().map(|line| line.msg)
}

fn tail(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        file.take(TAIL).read_to_end(&mut tail)?;
        std::io::Result::Ok(tail)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Restore {
        dir: tempfile::TempDir,
        watch: RestoreWatch,
    }

    fn restore() -> Restore {
        let dir = tempfile::tempdir().unwrap();
        let watch = RestoreWatch::new(dir.path(), &dir.path().join("conmon.pid"), "runc");
        Restore { dir, watch }
    }

    #[test]
    fn criu_says_that_it_failed() {
        let Restore { dir, mut watch } = restore();
        assert_eq!(watch.look(), None);
        let log = dir.path().join("restore.log");
        let error = "(00.1) Error (criu/mount.c:1): mnt: no\n";
        fs::write(&log, error.repeat(1000)).unwrap();
        assert_eq!(watch.look(), None);
        let last = "(00.2) Error (criu/cr-restore.c:2324): Restoring FAILED.\n";
        fs::write(&log, error.repeat(1000) + last).unwrap();
        assert_eq!(watch.look(), Some(End::Failed));
    }

    #[test]
    fn conmon_ends() {
        let Restore { dir, mut watch } = restore();
        let mut conmon = std::process::Command::new("sleep")
            .arg("9")
            .spawn()
            .unwrap();
        let file = dir.path().join("conmon.pid");
        fs::write(file, conmon.id().to_string()).unwrap();
        assert_eq!(watch.look(), None);
        conmon.kill().unwrap();
        conmon.wait().unwrap();
        assert_eq!(watch.look(), Some(End::Conmon));
    }

    #[test]
    fn the_runtime_has_written_down_why() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("oci-log");
        assert_eq!(runtime_error(&log), None);
        let lines = [
            r#"{"level":"warning","msg":"slow","time":"x"}"#,
            r#"{"level":"error","msg":"criu failed","time":"x"}"#,
            "torn",
        ];
        fs::write(&log, lines.join("\n")).unwrap();
        assert_eq!(runtime_error(&log).as_deref(), Some("criu failed"));
    }
}
