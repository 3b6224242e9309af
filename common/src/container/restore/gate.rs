//! The gate: Podman's restore, stopped just before the OCI runtime starts.
//!
//! Podman starts conmon once everything but the processes exists. [`stage`] gives it this
//! executable as conmon: it tells the agent where things are, waits for one byte, and then becomes
//! the real conmon, with the same arguments, descriptors and parent. So Podman, from its own
//! database to conmon's exit command, ends up exactly as after an ordinary restore, and no file
//! of ours is needed afterwards.
//!
//! The gate is a Unix socket rather than a file so that the agent's death closes it: the waiting
//! process then exits, Podman's restore fails and cleans up after itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

use super::pager::Pager;
use super::starter::{self, Start};
use super::watch::{self, RestoreWatch};
use crate::command::{self, CommandError};
use crate::container::checkpoint::freezer::Freezer;
use crate::container::keyring;
use crate::container::leftover_processes;
use crate::container::runtime;
use crate::systemd::{self, ServiceName};

/// Name under which the agent's executable is linked to act as conmon.
pub const CONMON_NAME: &str = "gate-conmon";

/// CRIU's configuration in the scratch space, for a restore that leaves memory to a pager.
const LAZY: &str = "lazy.conf";

const GATE_SOCKET: &str = "LIVE_MIGRATION_GATE";
const REAL_CONMON: &str = "LIVE_MIGRATION_CONMON";

/// How long Podman may take to come to the gate. Usually that is a second.
const STAGE_LIMIT: Duration = Duration::from_secs(120);

/// The same for one whose container is not wanted any more. Killed on its way it leaves a network namespace and
/// mounts behind, so it gets some time.
const CANCELLED_LIMIT: Duration = Duration::from_secs(15);

/// How long Podman may take to clean up after a closed gate or a failed restore: it waits for a runtime
/// that may itself wait half a minute for systemd.
const CANCEL_LIMIT: Duration = Duration::from_secs(45);

/// How long a runtime may go on with an abandoned restore.
const RUNTIME_LIMIT: Duration = Duration::from_secs(20);

/// How long conmon may take to start the runtime.
const START_LIMIT: Duration = Duration::from_millis(500);

/// How long killed processes may take to disappear.
const KILL_LIMIT: Duration = Duration::from_secs(5);
const KILL_PAUSE: Duration = Duration::from_millis(5);

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
    /// The restore failed; Podman may not have said so yet.
    #[error("the container cannot be restored: {0}")]
    Restore(String),
    /// Whoever connected to the gate did not send what was expected.
    #[error("the restore gate: {0}")]
    Unexpected(String),
}

/// What the waiting conmon reports.
#[derive(Debug, Serialize, Deserialize)]
struct Arrival {
    bundle: PathBuf,
    checkpoint: PathBuf,
    conmon_pid: PathBuf,
    runtime_log: Option<PathBuf>,
}

/// A container that exists except for its processes.
pub struct Staged {
    /// Where CRIU's images go.
    pub checkpoint: PathBuf,
    /// Podman's directory of the container, with the logs of the restore.
    pub bundle: PathBuf,
    scratch: PathBuf,
    gate: Option<UnixStream>,
    podman: Child,
    log: PathBuf,
    conmon_pid: PathBuf,
    runtime_log: Option<PathBuf>,
}

/// What systemd unit a container runs in at its destination.
#[derive(Debug, Clone)]
pub enum Owner {
    /// In a scope of this name, if there is systemd: where it would be if it had been started from a
    /// login, and not in this agent's service.
    Scope(String),
    /// In this service.
    Service(ServiceName),
}

/// Starts `podman container restore` of the skeleton `archive` and returns once it waits at the gate.
/// `runtime` is the container's, by name or path; `conmon` is the path of the real one; `scratch` receives the
/// socket and two small files.
///
/// For a service, its unit stays changed until [`crate::container::service::arrived`] or
/// [`crate::container::service::undo_arrival`].
///
/// # Errors
/// If Podman fails, or does not come to the gate: within two minutes, or soon after `cancel`. It is killed then.
///
/// Undone by [`Staged::cancel`] and [`crate::container::podman::objects::remove_container`].
pub async fn stage(
    owner: &Owner,
    archive: &Path,
    runtime: &str,
    conmon: &str,
    scratch: &Path,
    cancel: &CancellationToken,
) -> Result<Staged, GateError> {
    let link = scratch.join(CONMON_NAME);
    std::os::unix::fs::symlink(crate::paths::executable()?, &link)?;
    let overrides = scratch.join("gate.conf");
    let mut settings = format!(
        "[engine]\nconmon_path = [{:?}]\n",
        link.display().to_string()
    );
    // If a container comes with a path as its runtime, Podman accepts only a path that it has been told
    // of.
    if runtime.starts_with('/') {
        settings += &format!("[engine.runtimes]\n{runtime:?} = [{runtime:?}]\n");
    }
    std::fs::write(&overrides, settings)?;
    let socket = scratch.join("gate.sock");
    let listener = UnixListener::bind(&socket)?;

    // A file rather than a pipe: conmon inherits it for the container's whole life.
    let log = scratch.join("podman-restore.log");
    let arguments = vec![
        "container".to_owned(),
        "restore".to_owned(),
        "--tcp-established".to_owned(),
        "--file-locks".to_owned(),
        "--ignore-volumes".to_owned(),
        format!("--import={}", archive.display()),
    ];
    let text = |path: &Path| path.display().to_string();
    let environment = BTreeMap::from([
        ("CONTAINERS_CONF_OVERRIDE".to_owned(), text(&overrides)),
        (GATE_SOCKET.to_owned(), text(&socket)),
        (REAL_CONMON.to_owned(), conmon.to_owned()),
    ]);
    let mut command = match owner {
        Owner::Scope(name) => {
            let mut command = systemd::in_scope(name, "podman");
            command
                .args(&arguments)
                .envs(&environment)
                .stderr(File::create(&log)?);
            command
        }
        Owner::Service(name) => {
            let log = log.clone();
            let start = Start {
                arguments,
                environment,
                log,
            };
            start.write(scratch)?;
            let starter = scratch.join(starter::STARTER_NAME);
            std::os::unix::fs::symlink(crate::paths::executable()?, &starter)?;
            name.add_override(&starter::override_of(&starter, scratch))
                .await?;
            let mut command = command::new("systemctl");
            // Otherwise what the unit requires would be started as well.
            command
                .args(["start", "--job-mode=ignore-dependencies", name.as_str()])
                .stderr(Stdio::null());
            command
        }
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let mut podman = command.spawn().map_err(|source| CommandError::Start {
        program: "podman".into(),
        source,
    })?;

    let given_up = async {
        tokio::select! {
            () = tokio::time::sleep(STAGE_LIMIT) => {}
            () = async {
                cancel.cancelled().await;
                tokio::time::sleep(CANCELLED_LIMIT).await;
            } => {}
        }
    };
    let (gate, arrival) = come_to_gate(&listener, &mut podman, &log, given_up).await?;
    Ok(Staged {
        checkpoint: arrival.checkpoint,
        bundle: arrival.bundle,
        scratch: scratch.to_owned(),
        gate: Some(gate),
        podman,
        log,
        conmon_pid: arrival.conmon_pid,
        runtime_log: arrival.runtime_log,
    })
}

/// Waits until Podman is at the gate, or has ended, or for as long as `given_up` does.
async fn come_to_gate(
    listener: &UnixListener,
    podman: &mut Child,
    log: &Path,
    given_up: impl Future<Output = ()>,
) -> Result<(UnixStream, Arrival), GateError> {
    let arrive = async {
        let mut reader = BufReader::new(listener.accept().await?.0);
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        let arrival = serde_json::from_str(&line)
            .map_err(|e| GateError::Unexpected(format!("{e} in {line:?}")))?;
        Ok((reader.into_inner(), arrival))
    };
    tokio::select! {
        arrived = arrive => arrived,
        status = podman.wait() => Err(failed(status?, log).into()),
        () = given_up => Err(GateError::Restore("podman does not come to its end".into())),
    }
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
    /// Closes the gate, unless it is open, and waits until Podman has cleaned up after itself. What Podman then
    /// still keeps of the container is removed with [`crate::container::podman::objects::remove_container`].
    pub async fn cancel(mut self) {
        drop(self.gate);
        // Podman tears down network and storage itself if it may; if killed, it leaves them behind.
        if tokio::time::timeout(CANCEL_LIMIT, self.podman.wait())
            .await
            .is_err()
        {
            tracing::warn!("podman did not end after the gate was closed: killing it");
        }
    }

    /// Has the restore behind the gate leave memory to a pager.
    ///
    /// # Errors
    /// If the scratch space cannot be written to.
    pub fn make_lazy(&self) -> io::Result<()> {
        std::fs::write(self.scratch.join(LAZY), "lazy-pages\n")
    }

    /// Opens the gate and waits until Podman has the container running. If it gets its memory from a `pager`,
    /// that must live until then.
    ///
    /// From here on Podman owns the container; undone by [`Staged::cancel`] and
    /// [`crate::container::podman::objects::remove_container`].
    ///
    /// # Errors
    /// As soon as it is certain that the container will not run; nothing of it runs then. Podman, and
    /// perhaps the runtime, may still be cleaning up, which can take half a minute: that is left to
    /// [`Staged::cancel`], because the source's clients wait for this answer.
    pub async fn open(
        &mut self,
        runtime: &str,
        id: &str,
        mut pager: Option<&mut Pager>,
    ) -> Result<(), GateError> {
        if let Some(mut gate) = self.gate.take() {
            gate.write_all(b"\n").await?;
        }
        let mut watch = RestoreWatch::new(&self.bundle, &self.conmon_pid, runtime);
        let ended = loop {
            match tokio::time::timeout(watch::LOOK, self.podman.wait()).await {
                Ok(status) => {
                    if !status?.success() {
                        break None;
                    }
                    // Without its pager it stands still at the first page that is missing.
                    if pager.as_mut().is_some_and(|pager| pager.has_failed()) {
                        break Some(watch::End::Pager);
                    }
                    return Ok(());
                }
                Err(_) => {
                    if let Some(ended) = watch.look() {
                        break Some(ended);
                    }
                    if pager.as_mut().is_some_and(|pager| pager.has_failed()) {
                        break Some(watch::End::Pager);
                    }
                }
            }
        };
        // If CRIU has failed in an orderly way, so will its runtime.
        let in_order = ended == Some(watch::End::Failed);
        let (runtime, id) = (runtime.to_owned(), id.to_owned());
        let killing = move || kill_restored(&runtime, &id, in_order);
        tokio::task::spawn_blocking(killing)
            .await
            .map_err(io::Error::other)??;
        let Some(ended) = ended else {
            let status = self.podman.wait().await?;
            return Err(failed(status, &self.log).into());
        };
        let said = self.runtime_log.as_deref();
        let said = said.and_then(watch::runtime_error);
        Err(GateError::Restore(
            said.unwrap_or_else(|| ended.to_string()),
        ))
    }
}

/// Kills what a restore has created and, unless it ends `in_order`, the programs that would go on
/// with it: when Podman, conmon or CRIU is killed, the others go on or wait for ever. Returns when
/// all of them are gone.
fn kill_restored(runtime: &str, id: &str, in_order: bool) -> io::Result<()> {
    let deadline = Instant::now() + KILL_LIMIT;
    loop {
        let mut found = Vec::new();
        if !in_order {
            // In the order in which they start one another.
            for program in [CONMON_NAME, "conmon", runtime] {
                found.extend(leftover_processes::at_restore(program, id));
            }
        }
        // Processes that are not in the container's cgroup yet: CRIU has the images open, whose
        // path contains the container's id.
        found.extend(leftover_processes::with_open_file("criu", id));
        for pid in &found {
            // The process may just have ended.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        let cgroup = Freezer::of_container(id).filter(|cgroup| !cgroup.processes().is_empty());
        if let Some(cgroup) = &cgroup {
            cgroup.kill().map_err(io::Error::other)?;
        }
        if found.is_empty() && cgroup.is_none() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!(
                "a half-restored container does not end: processes {found:?}"
            )));
        }
        std::thread::sleep(KILL_PAUSE);
    }
}

/// Ends what a failed restore may have left. If Podman, conmon or CRIU was killed meanwhile, the
/// others go on or wait for ever, and leave processes that Podman knows nothing of.
///
/// Harmless if nothing is left. Not undone. Blocks.
///
/// # Errors
/// If a process does not end.
pub fn end_processes(runtime: &str, id: &str) -> Result<(), GateError> {
    // A process that has just passed the gate becomes conmon, which starts the runtime, or it ends.
    leftover_processes::wait_for_program(CONMON_NAME, id, RUNTIME_LIMIT)
        .map_err(io::Error::other)?;
    let _ = leftover_processes::wait_for_program("conmon", id, START_LIMIT);
    // The runtime first: otherwise it would go on in a cgroup that is empty by then.
    leftover_processes::wait_for_program(runtime, id, RUNTIME_LIMIT).map_err(io::Error::other)?;
    if let Some(cgroup) = Freezer::of_container(id) {
        cgroup.kill().map_err(io::Error::other)?;
    }
    // conmon ends when its container does, if it was told of it.
    if let Err(conmon) = leftover_processes::wait_for_program("conmon", id, CONMON_LIMIT) {
        kill(Pid::from_raw(conmon.pid), Signal::SIGKILL).map_err(io::Error::from)?;
    }
    forget(id);
    Ok(())
}

/// Removes the state that a killed runtime keeps of a container that does not run: otherwise it would
/// say that the next container of this id already exists. Also unmounts the root that the runtime has
/// mounted for CRIU (`criu-root` in runc's criu_linux.go and crun's criu.c).
///
/// Harmless if nothing is left. Not undone. Blocks.
pub fn forget(id: &str) {
    for runtime in runtime::NAMES {
        let state = runtime::state_directory(runtime, id);
        if !state.exists() {
            continue;
        }
        let _ = umount2(&state.join("criu-root"), MntFlags::MNT_DETACH);
        let mut delete = command::blocking(runtime);
        let deleted = delete.args(["delete", "--force", id]).output();
        tracing::debug!("{} was left behind: {deleted:?}", state.display());
    }
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
    let mut conmon = std::process::Command::new(real);
    // Podman also probes `conmon --version`.
    if let (Some(bundle), Some(checkpoint)) = (value("-b"), value("--restore")) {
        let socket = std::env::var_os(GATE_SOCKET).ok_or_else(|| missing(GATE_SOCKET))?;
        // For the service that the container belongs to.
        let scratch = Path::new(&socket).parent().unwrap_or(Path::new("/"));
        let conmon_pid = value("--conmon-pidfile").unwrap_or_default();
        std::fs::write(
            scratch.join(starter::PID_FILE),
            conmon_pid.as_os_str().as_bytes(),
        )?;
        let mut gate = BlockingStream::connect(&socket)?;
        // In the argument that Podman has conmon pass on to the runtime.
        let runtime_log = arguments.iter().find_map(|argument| {
            let log = argument.to_str()?.strip_prefix("--runtime-arg=")?;
            log.ends_with("/oci-log").then(|| PathBuf::from(log))
        });
        let mut line = serde_json::to_vec(&Arrival {
            bundle,
            checkpoint,
            conmon_pid,
            runtime_log,
        })?;
        line.push(b'\n');
        gate.write_all(&line)?;
        gate.read_exact(&mut [0])?;
        let id = value("-c").ok_or_else(|| missing("-c"))?;
        keyring::join(&id.to_string_lossy())?;
        let options = scratch.join(LAZY);
        if options.exists() {
            // runc tells CRIU in any case whether it is to be lazy, crun never does.
            let runtime = value("-r").unwrap_or_default();
            if runtime.file_name().is_some_and(|name| name == "runc") {
                conmon.args(["--runtime-opt", "--lazy-pages"]);
            }
            conmon.env("CRIU_CONFIG_FILE", options);
        }
    }
    Err(conmon
        .args(arguments)
        .env_remove("CONTAINERS_CONF_OVERRIDE")
        .env_remove(GATE_SOCKET)
        .env_remove(REAL_CONMON)
        .exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_podman_that_hangs_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("gate.sock")).unwrap();
        let mut podman = command::new("sleep");
        let mut podman = podman.arg("60").kill_on_drop(true).spawn().unwrap();
        let log = dir.path().join("log");
        let soon = tokio::time::sleep(Duration::from_millis(50));
        let error = come_to_gate(&listener, &mut podman, &log, soon).await;
        assert!(matches!(error, Err(GateError::Restore(_))));
        // Nor is one waited for that comes and says nothing.
        let _silent = BlockingStream::connect(dir.path().join("gate.sock")).unwrap();
        let soon = tokio::time::sleep(Duration::from_millis(50));
        let error = come_to_gate(&listener, &mut podman, &log, soon).await;
        assert!(matches!(error, Err(GateError::Restore(_))));
    }
}
