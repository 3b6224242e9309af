//! The gate: Podman's restore, held just before the OCI runtime starts.
//!
//! Podman starts conmon once everything but the processes exists. [`stage`] gives it this
//! executable as conmon: it tells the agent where things are, waits for one byte, and then becomes
//! the real conmon, with the same arguments, descriptors and parent. So Podman, from its own
//! database to conmon's exit command, ends up exactly as after an ordinary restore, and no file
//! of ours is needed afterwards.
//!
//! The gate is a Unix socket rather than a file so that the agent's death closes it: the waiting
//! process then exits, Podman's restore fails and cleans up after itself.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream as BlockingStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Child;

use super::command::CommandError;
use super::freezer::Freezer;
use super::spec::Layout;
use super::stragglers;

/// Name the agent's executable is linked to, to act as conmon.
pub const CONMON_NAME: &str = "gate-conmon";

const GATE_SOCKET: &str = "LIVE_MIGRATION_GATE";
const REAL_CONMON: &str = "LIVE_MIGRATION_CONMON";

/// How long Podman may take to clean up after a closed gate.
const CANCEL_LIMIT: Duration = Duration::from_secs(15);

/// How long a runtime may go on with a restore that nobody waits for.
const RUNTIME_LIMIT: Duration = Duration::from_secs(20);

/// How long conmon may take to start the runtime.
const START_LIMIT: Duration = Duration::from_millis(500);

/// How often it is looked whether CRIU is at work on a restore, and how often in a row it may not be:
/// before CRIU begins, and after it, things take milliseconds.
const LOOK: Duration = Duration::from_secs(2);
const MOST_LOOKS: u32 = 5;

/// How long conmon may take after its container has ended: it runs Podman's clean-up.
const CONMON_LIMIT: Duration = Duration::from_secs(3);

/// The container cannot be brought to the gate or through it.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// Podman failed before or after the gate.
    #[error(transparent)]
    Podman(#[from] CommandError),
    /// The socket or the files beside it failed.
    #[error("the restore gate: {0}")]
    Io(#[from] io::Error),
    /// Whoever came to the gate did not say what was expected.
    #[error("the restore gate: {0}")]
    Unexpected(String),
}

/// What the waiting conmon reports.
#[derive(Debug, Serialize, Deserialize)]
struct Arrival {
    bundle: PathBuf,
    checkpoint: PathBuf,
}

/// A container that exists in every respect but its processes.
pub struct Staged {
    /// Where CRIU's images belong.
    pub checkpoint: PathBuf,
    /// Podman's directory of the container: logs of the restore are there.
    pub bundle: PathBuf,
    /// Where the files belong.
    pub layout: Layout,
    gate: UnixStream,
    podman: Child,
    log: PathBuf,
}

/// Starts `podman container restore` of the skeleton `archive` and returns once it waits at the
/// gate. `runtime` is the container's, by name or path; `scratch` receives the socket and two small files.
///
/// Undone by [`Staged::cancel`] and [`super::podman::remove_container`].
pub async fn stage(archive: &Path, runtime: &str, scratch: &Path) -> Result<Staged, GateError> {
    let stand_in = scratch.join(CONMON_NAME);
    std::os::unix::fs::symlink(crate::multicall::executable()?, &stand_in)?;
    let overrides = scratch.join("gate.conf");
    let mut settings = format!(
        "[engine]\nconmon_path = [{:?}]\n",
        stand_in.display().to_string()
    );
    // Of containers that come with a path as their runtime Podman takes only those that it has been told.
    if runtime.starts_with('/') {
        settings += &format!("[engine.runtimes]\n{runtime:?} = [{runtime:?}]\n");
    }
    std::fs::write(&overrides, settings)?;
    let socket = scratch.join("gate.sock");
    let listener = UnixListener::bind(&socket)?;

    // A file, not a pipe: conmon inherits it for the container's whole life.
    let log = scratch.join("podman-restore.log");
    let mut command = super::podman::podman();
    command
        .args([
            "container",
            "restore",
            "--tcp-established",
            "--file-locks",
            "--ignore-volumes",
        ])
        .arg(format!("--import={}", archive.display()))
        .env("CONTAINERS_CONF_OVERRIDE", &overrides)
        .env(GATE_SOCKET, &socket)
        .env(REAL_CONMON, super::podman::places().await?.conmon)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .kill_on_drop(true);
    let mut podman = command.spawn().map_err(|source| CommandError::Start {
        program: "podman".into(),
        source,
    })?;

    let gate = tokio::select! {
        accepted = listener.accept() => accepted?.0,
        status = podman.wait() => return Err(failed(status?, &log).into()),
    };
    let mut reader = BufReader::new(gate);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let arrival: Arrival = serde_json::from_str(&line)
        .map_err(|e| GateError::Unexpected(format!("{e} in {line:?}")))?;
    Ok(Staged {
        layout: Layout::read(&arrival.bundle.join("config.json"))?,
        checkpoint: arrival.checkpoint,
        bundle: arrival.bundle,
        gate: reader.into_inner(),
        podman,
        log,
    })
}

fn failed(status: ExitStatus, log: &Path) -> CommandError {
    let stderr = std::fs::read_to_string(log).unwrap_or_default();
    CommandError::Failed {
        program: "podman".into(),
        verb: "container restore".into(),
        message: stderr
            .lines()
            .rev()
            .find(|l| !l.trim().is_empty())
            .map_or_else(|| status.to_string(), str::to_owned),
    }
}

impl Staged {
    /// Closes the gate and waits until Podman has cleaned up after itself. What Podman keeps of
    /// the container then is removed with [`super::podman::remove_container`].
    pub async fn cancel(mut self) {
        drop(self.gate);
        // Podman tears down network and storage itself if it is let; killed, it leaves them.
        if tokio::time::timeout(CANCEL_LIMIT, self.podman.wait())
            .await
            .is_err()
        {
            tracing::warn!("podman did not end after the gate was closed: killing it");
        }
    }

    /// Opens the gate and waits until Podman has the container running.
    ///
    /// From here on Podman owns the container; undone by
    /// [`super::podman::remove_container`].
    ///
    /// When CRIU is killed, processes that are restored by half, which are called like it for a while,
    /// may keep the others' pipes open, and then runtime, conmon or Podman wait for ever: while CRIU does
    /// nothing they get a while to end.
    pub async fn open(mut self, runtime: &str, id: &str) -> Result<(), GateError> {
        self.gate.write_all(b"\n").await?;
        let (mut looks, mut before) = (0, None);
        let status = loop {
            match tokio::time::timeout(LOOK, self.podman.wait()).await {
                Ok(status) => break status?,
                Err(_) => looks += 1,
            }
            // Anybody's: not every runtime's is its child.
            let used = stragglers::processor_time("criu");
            if used > std::mem::replace(&mut before, used) {
                looks = 0;
            } else if looks == MOST_LOOKS {
                tracing::warn!("nothing is restored any more: ending it");
                end_restore(runtime, id)?;
                looks = 0;
            }
        };
        if status.success() {
            return Ok(());
        }
        Err(failed(status, &self.log).into())
    }
}

/// Ends what a restore that failed may have left. When Podman, conmon or CRIU is killed meanwhile, the
/// others go on or wait for ever, and then there are processes that Podman knows nothing of.
///
/// Harmless where nothing is left. Not undone. Blocks.
///
/// # Errors
/// If something does not end.
pub fn end_processes(runtime: &str, id: &str) -> Result<(), GateError> {
    // One that has just passed the gate becomes conmon, and that starts the runtime, unless it ends.
    stragglers::wait_for_program(CONMON_NAME, id, RUNTIME_LIMIT).map_err(io::Error::other)?;
    let _ = stragglers::wait_for_program("conmon", id, START_LIMIT);
    // The runtime first: it would go on in a cgroup that is empty by then.
    stragglers::wait_for_program(runtime, id, RUNTIME_LIMIT).map_err(io::Error::other)?;
    if let Some(cgroup) = Freezer::of_container(id) {
        cgroup.kill().map_err(io::Error::other)?;
    }
    // conmon ends when its container does, if it has heard of it.
    if let Err(conmon) = stragglers::wait_for_program("conmon", id, CONMON_LIMIT) {
        kill(Pid::from_raw(conmon.pid), Signal::SIGKILL).map_err(io::Error::from)?;
    }
    forget(id);
    Ok(())
}

/// Removes what a runtime that was killed keeps of a container that does not run: it would say that the
/// next one of this id exists already. Also unmounts the root that it has mounted for CRIU (`criu-root`
/// in runc's criu_linux.go and crun's criu.c).
///
/// Harmless where nothing is left. Not undone. Blocks.
pub fn forget(id: &str) {
    for runtime in ["runc", "crun"] {
        let state = Path::new("/run").join(runtime).join(id);
        if !state.exists() {
            continue;
        }
        let _ = umount2(&state.join("criu-root"), MntFlags::MNT_DETACH);
        let mut delete = std::process::Command::new(runtime);
        let deleted = delete.args(["delete", "--force", id]).output();
        tracing::debug!("{} was left: {deleted:?}", state.display());
    }
}

fn end_restore(runtime: &str, id: &str) -> io::Result<()> {
    if let Some(runtime) = stragglers::program(runtime, id) {
        // It may just have ended by itself.
        let _ = kill(Pid::from_raw(runtime), Signal::SIGKILL);
    }
    // Processes that are not in the container's cgroup yet: CRIU has the images open, below the
    // container's id.
    for pid in stragglers::with_open_file("criu", id) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    Freezer::of_container(id).map_or(Ok(()), |cgroup| cgroup.kill().map_err(io::Error::other))
}

/// Acts as conmon: waits at the gate, then becomes the real one. Returns only on failure.
pub fn conmon(arguments: &[OsString]) -> i32 {
    match wait_and_become_conmon(arguments) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("{CONMON_NAME}: {error}");
            1
        }
    }
}

fn wait_and_become_conmon(arguments: &[OsString]) -> io::Result<std::convert::Infallible> {
    let missing = |name: &str| io::Error::new(io::ErrorKind::NotFound, format!("{name} is unset"));
    let real = std::env::var_os(REAL_CONMON).ok_or_else(|| missing(REAL_CONMON))?;
    let value = |flag: &str| {
        let position = arguments.iter().position(|a| a == flag)?;
        arguments.get(position + 1).map(PathBuf::from)
    };
    // Podman also probes `conmon --version`.
    if let (Some(bundle), Some(checkpoint)) = (value("-b"), value("--restore")) {
        let socket = std::env::var_os(GATE_SOCKET).ok_or_else(|| missing(GATE_SOCKET))?;
        let mut gate = BlockingStream::connect(socket)?;
        let mut line = serde_json::to_vec(&Arrival { bundle, checkpoint })?;
        line.push(b'\n');
        gate.write_all(&line)?;
        gate.read_exact(&mut [0])?;
    }
    Err(std::process::Command::new(real)
        .args(arguments)
        .env_remove("CONTAINERS_CONF_OVERRIDE")
        .env_remove(GATE_SOCKET)
        .env_remove(REAL_CONMON)
        .exec())
}
