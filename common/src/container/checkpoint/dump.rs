//! The memory image: the OCI runtime's checkpoint of a frozen container, which stays frozen.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

use super::freezer::Freezer;
use super::page_port::PagePort;
use crate::command::{self, CommandError};
use crate::container::leftover_processes::Process;

/// How long a dump may write nothing, neither images nor a line of its log, and the poll interval. A dump
/// that is merely slow keeps writing: CRIU logs several lines for each file and each range of memory.
const STALL: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(1);

/// How long an abandoned CRIU may take to leave the container, and then a killed one.
const LEAVE_LIMIT: Duration = Duration::from_secs(20);
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// CRIU's options that runtimes have no option for. CRIU's own limit for a file that is open but
/// deleted is 1 MiB; this is the largest one that it can be given, in bytes.
const OPTIONS: &str = "network-lock skip\nghost-limit 4294967295\n";

/// Those of a dump that leaves memory out: where it would serve it.
const LAZY_OPTIONS: &str = "address 127.0.0.1\n";

/// The dump failed. The container is as it was.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The scratch files could not be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// CRIU gave up.
    #[error("CRIU could not dump the container: {line}")]
    Criu {
        /// CRIU's own error line.
        line: String,
        /// Its whole log.
        log: PathBuf,
    },
    /// The user or a time limit ended it. CRIU may still be leaving the container: see [`leave`].
    #[error("cancelled")]
    Cancelled,
    /// It wrote nothing any more and did not end.
    #[error("the dump made no progress for {} s and was ended", STALL.as_secs())]
    Stalled,
    /// The runtime failed before CRIU said why.
    #[error(transparent)]
    Runtime(#[from] CommandError),
}

/// Dumps the container `id` into `images`, with `scratch` for CRIU's configuration and log. If this is a `lazy` dump,
/// by a CRIU of this version, it leaves private anonymous memory out.
///
/// The container must be frozen and its network namespace quarantined. CRIU is told not to lock the
/// network itself: that would cost several forks of iptables during the outage, and CRIU would undo
/// it at the end of the dump. `runtime` is the OCI runtime's path.
///
/// Effect on the container: none that outlives the call (CRIU's parasite is removed, and repair
/// mode is turned off).
pub async fn dump(
    runtime: &Path,
    id: &str,
    images: &Path,
    scratch: &Path,
    lazy: Option<&str>,
    cancel: &CancellationToken,
) -> Result<(), DumpError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| DumpError::Io { path, source }
    };
    std::fs::create_dir_all(images).map_err(io(images))?;
    // The options are in a file named by an environment variable: in the runtime's own configuration
    // file the first crashes CRIU up to 4.2.
    let configuration = scratch.join("criu.conf");
    let options = match lazy {
        Some(_) => [OPTIONS, LAZY_OPTIONS].concat(),
        None => OPTIONS.to_owned(),
    };
    std::fs::write(&configuration, options).map_err(io(&configuration))?;

    let mut command = command::new(runtime);
    command
        .arg("checkpoint")
        .arg("--image-path")
        .arg(images)
        .arg("--work-path")
        .arg(scratch)
        .args(["--leave-running", "--tcp-established", "--file-locks"])
        .env("CRIU_CONFIG_FILE", &configuration);
    let ended = CancellationToken::new();
    // However this ends, nobody waits for the port any more.
    let _ended = ended.clone().drop_guard();
    if let Some(criu) = lazy {
        let port = PagePort::new(criu).map_err(io(scratch))?;
        port.enter(&mut command);
        tokio::task::spawn_blocking(move || {
            // If this fails the dump does not end, or says why.
            if let Err(error) = port.close(&ended) {
                tracing::warn!("CRIU's page port: {error}");
            }
        });
    }
    command.arg(id);
    let mut running = Box::pin(command::output(&mut command));
    let (mut written, mut progressed) = (0, Instant::now());
    // Dropping the future kills the runtime.
    let output = loop {
        tokio::select! {
            output = &mut running => break output?,
            () = cancel.cancelled() => return Err(DumpError::Cancelled),
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = bytes_in(images) + bytes_in(scratch);
        if std::mem::replace(&mut written, now) != now {
            progressed = Instant::now();
        } else if progressed.elapsed() > STALL {
            return Err(DumpError::Stalled);
        }
    };
    drop(running);
    if output.status.success() {
        return Ok(());
    }
    let log = scratch.join("dump.log");
    match criu_error(&log) {
        Some(line) => Err(DumpError::Criu { line, log }),
        None => Err(command::failed(&command, &output).into()),
    }
}

/// Bytes in the files of a directory, without subdirectories; 0 if it cannot be read.
fn bytes_in(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let lengths = entries.filter_map(|entry| Some(entry.metadata().ok()?.len()));
    lengths.sum()
}

/// Makes an abandoned CRIU leave the container, and returns whether it has. Blocks.
///
/// Without its runtime CRIU has nobody to report to, and leaves in order, even if it was stopped. A CRIU
/// that does not is killed after 20 s: the parasite it has put into the tasks ends when its connection
/// does (`parasite_daemon` in compel/plugins/std/infect.c).
pub fn leave(freezer: &Freezer) -> bool {
    let signal = |signal| {
        for pid in freezer.tracers() {
            // Only CRIU: the container may have a debugger of its own.
            if Process::read(pid).is_some_and(|process| process.name == "criu") {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
    };
    signal(Signal::SIGCONT);
    if freezer.wait_untraced(LEAVE_LIMIT) {
        return true;
    }
    signal(Signal::SIGKILL);
    freezer.wait_untraced(KILL_LIMIT)
}

/// The first error line in a CRIU log: later ones are consequences of it.
pub fn criu_error(log: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&std::fs::read(log).ok()?).into_owned();
    error_line(&text)
}

pub(crate) fn error_line(log: &str) -> Option<String> {
    log.lines()
        .filter_map(|line| line.split_once("Error (").map(|(_, rest)| rest))
        .map(|rest| format!("Error ({rest}"))
        // CRIU's own limit, logged without CAP_SYS_RESOURCE, and harmless.
        .find(|line| !line.contains("RLIMIT_NOFILE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_telling_error_line_is_found() {
        let log = "(00.001) Error (criu/util.c:1): Can't set RLIMIT_NOFILE\n\
                   (00.002) Error (criu/sk-inet.c:189): inet: Connected TCP socket\n\
                   (00.003) Error (criu/cr-dump.c:1545): Dump files (pid: 151) failed with -1\n\
                   (00.003) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        assert_eq!(
            error_line(log).unwrap(),
            "Error (criu/sk-inet.c:189): inet: Connected TCP socket"
        );
        assert_eq!(error_line("(00.001) fine\n"), None);
        // Without CAP_SYS_RESOURCE, of a process that is not root's.
        let log = "(00.003) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n\
                   (00.111) Error (criu/cr-dump.c:389): Can't get rlimit 0: Operation not permitted\n\
                   (00.111) Error (criu/cr-dump.c:1584): Dump core (pid: 67) failed with -1\n";
        assert_eq!(
            error_line(log).unwrap(),
            "Error (criu/cr-dump.c:389): Can't get rlimit 0: Operation not permitted"
        );
    }
}
