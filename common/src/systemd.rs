//! The host's systemd, where it has one: scopes for what the agents start and others own.
//!
//! What lives in an agent's own cgroup would be counted to its service or login session: stopped with
//! it, limited like it, logged as its output, and in the way of its next start. So whatever outlives a
//! command of the agents gets a scope of its own, as Podman does for the containers that it starts.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::container::command;

/// How long systemd may take to move a process into a new scope.
const MOVE_LIMIT: Duration = Duration::from_secs(10);

/// Pause between looks whether it has.
const POLL: Duration = Duration::from_millis(5);

/// Whether systemd is this host's init: sd_booted(3).
pub fn runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A command line for `program`, to be completed, which runs in the scope `NAME.scope` of its own in
/// system.slice, as a child of the agent all the same. Without systemd, simply one for `program`.
///
/// The scope may have cgroups below it (`Delegate=`): Podman makes some for a container that was started
/// with `--cgroups=split`. It goes with its last process. A scope of this name must not exist.
///
/// `systemd-run` gives the program an `INVOCATION_ID`, by which Podman would take itself for a service
/// and leave conmon where it is: that is taken out again.
pub fn in_scope(name: &str, program: impl AsRef<OsStr>) -> Command {
    if !runs() {
        return command::new(program);
    }
    let mut command = command::new("systemd-run");
    command
        .args(["--scope", "--quiet", "--collect", "--property=Delegate=yes"])
        .arg(format!("--unit={name}.scope"))
        .args(["--", "env", "--unset=INVOCATION_ID"])
        .arg(program);
    command
}

/// Moves the calling process into the scope `NAME.scope` of its own. Without systemd nothing happens.
///
/// The scope goes with its last process. One of this name that is left from before must be empty.
///
/// Calls `StartTransientUnit` of org.freedesktop.systemd1(5) by way of `busctl`, and waits until the
/// kernel says that it is done. Blocks.
pub fn enter_scope(name: &str) -> io::Result<()> {
    if !runs() {
        return Ok(());
    }
    let unit = format!("{name}.scope");
    let pid = std::process::id().to_string();
    let output = command::blocking("busctl")
        .args(["call", "--quiet", "org.freedesktop.systemd1"])
        .args([
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
        ])
        .args(["StartTransientUnit", "ssa(sv)a(sa(sv))", &unit, "fail"])
        .args(["3", "PIDs", "au", "1", &pid, "Delegate", "b", "true"])
        .args(["CollectMode", "s", "inactive-or-failed", "0"])
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(format!("cannot start {unit}: {said}")));
    }
    let deadline = Instant::now() + MOVE_LIMIT;
    loop {
        // The line of cgroup v2: cgroups(7).
        let cgroups = std::fs::read_to_string("/proc/self/cgroup")?;
        let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
        if own.is_some_and(|path| path.ends_with(&unit)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let why = format!("systemd did not move process {pid} into {unit}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        std::thread::sleep(POLL);
    }
}
