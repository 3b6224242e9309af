//! The host's systemd, if it has one: scopes for what the agents start for others, and services that
//! containers belong to.
//!
//! What runs in an agent's own cgroup counts as part of its service or login session: it is stopped
//! with it, limited like it, logged as its output, and blocks its next start. So whatever outlives an
//! agent's command gets its own scope, as Podman does for the containers it starts.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::command::{self, CommandError};
use crate::durable;

/// How long systemd may take to move a process into a new scope.
const MOVE_LIMIT: Duration = Duration::from_secs(10);

/// Poll interval.
const POLL: Duration = Duration::from_millis(5);

/// Whether systemd is this host's init: sd_booted(3).
pub fn runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A command line for `program`, to be completed. It runs in its own scope `NAME.scope` in
/// system.slice, but still as a child of the agent. Without systemd, simply a command line for
/// `program`.
///
/// The scope may have cgroups below it (`Delegate=`): Podman creates some for a container started with
/// `--cgroups=split`. It goes away with its last process. A scope of this name must not exist.
///
/// `systemd-run` gives the program an `INVOCATION_ID`, which would make Podman believe it is a service
/// and leave conmon where it is, so the variable is removed again.
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

/// Moves the calling process into its own scope `NAME.scope`. Does nothing without systemd.
///
/// The scope goes away with its last process. One of this name that is left from before must be
/// empty.
///
/// Calls `StartTransientUnit` of org.freedesktop.systemd1(5) by way of `busctl`, and waits until the
/// kernel reports the move. Blocks.
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

/// The name of a service, as systemd allows it (systemd.unit(5)): it becomes part of paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

impl ServiceName {
    /// The name, with its suffix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Our drop-in that overrides the unit until the next boot.
    fn override_file(&self) -> PathBuf {
        Path::new("/run/systemd/system")
            .join(format!("{}.d", self.0))
            .join("90-live-migration.conf")
    }

    /// Adds these lines to the unit as systemd sees it. Undone by
    /// [`remove_override`](Self::remove_override).
    pub async fn add_override(&self, lines: &str) -> Result<(), CommandError> {
        write(&self.override_file(), lines)?;
        reload().await
    }

    /// Undoes [`add_override`](Self::add_override): systemd then sees the unit as its files say. A
    /// running service runs on. Harmless if there is no override.
    pub async fn remove_override(&self) -> Result<(), CommandError> {
        let file = self.override_file();
        if !file.exists() {
            return Ok(());
        }
        remove(&file)?;
        if let Some(directory) = file.parent() {
            // Not empty if somebody else has a drop-in as well.
            let _ = std::fs::remove_dir(directory);
        }
        reload().await
    }

    /// From the next [`reload`] or boot on, nothing can start the service. Undone by
    /// [`unmask`](Self::unmask).
    pub async fn mask(&self) -> Result<(), CommandError> {
        // As long as nothing is reloaded, the running service keeps its settings.
        systemctl(&["mask", "--quiet", "--no-reload", &self.0])
            .await
            .map(drop)
    }

    /// Undoes [`mask`](Self::mask), at once.
    pub async fn unmask(&self) -> Result<(), CommandError> {
        systemctl(&["unmask", "--quiet", "--no-reload", &self.0]).await?;
        reload().await
    }

    /// Has the service start at boot. Undone by [`disable`](Self::disable).
    pub async fn enable(&self) -> Result<(), CommandError> {
        systemctl(&["enable", "--quiet", &self.0]).await.map(drop)
    }

    /// Undoes [`enable`](Self::enable). A running service keeps its settings.
    pub async fn disable(&self) -> Result<(), CommandError> {
        systemctl(&["disable", "--quiet", "--no-reload", &self.0])
            .await
            .map(drop)
    }

    /// Stops the service, without those that belong to it, and clears its failed state. Does nothing if
    /// it is not running or systemd does not know it.
    pub async fn stop(&self) -> Result<(), CommandError> {
        if self.show(&["LoadState"]).await?["LoadState"] == "not-found" {
            return Ok(());
        }
        systemctl(&["stop", "--job-mode=ignore-dependencies", &self.0]).await?;
        // There may be no failure to clear.
        let _ = systemctl(&["reset-failed", &self.0]).await;
        Ok(())
    }

    /// These properties of the unit, empty where it has none: org.freedesktop.systemd1(5).
    pub async fn show(
        &self,
        properties: &[&str],
    ) -> Result<BTreeMap<String, String>, CommandError> {
        show(&self.0, properties).await
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ServiceName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        match name.strip_suffix(".service") {
            Some(stem)
                if !stem.is_empty()
                    && !stem.starts_with('.')
                    && name.len() < 256
                    && name.chars().all(allowed) =>
            {
                Ok(ServiceName(name))
            }
            _ => Err(format!("{name:?} is not the name of a service")),
        }
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> String {
        name.0
    }
}

/// These properties of a unit, empty where it has none.
pub(crate) async fn show(
    unit: &str,
    properties: &[&str],
) -> Result<BTreeMap<String, String>, CommandError> {
    let list = format!("--property={}", properties.join(","));
    let text = systemctl(&["show", &list, "--", unit]).await?;
    let mut found: BTreeMap<String, String> = properties
        .iter()
        .map(|name| ((*name).to_owned(), String::new()))
        .collect();
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        found.insert(name.to_owned(), value.to_owned());
    }
    Ok(found)
}

/// Has systemd read its unit files again and run its generators.
pub async fn reload() -> Result<(), CommandError> {
    systemctl(&["daemon-reload"]).await.map(drop)
}

/// Runs `systemctl` with these arguments and returns what it prints.
pub(crate) async fn systemctl(arguments: &[&str]) -> Result<String, CommandError> {
    let mut command = command::new("systemctl");
    command::stdout(command.arg("--no-pager").args(arguments)).await
}

/// Writes a file that systemd reads, completely or not at all. It is on disk when this returns.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    durable::replace(path, 0o644, text.as_bytes()).map_err(|source| CommandError::File {
        path: path.to_owned(),
        source,
    })
}

/// Removes a file that systemd reads. Does nothing if it is not there.
pub(crate) fn remove(path: &Path) -> Result<(), CommandError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CommandError::File {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// As the main process of a unit of type `notify`, tells systemd that the unit is ready and that `main`
/// is its main process from now on: sd_notify(3). systemd reads this before it notices that the caller
/// has ended (src/core/manager.c gives the socket the higher priority).
pub fn notify_ready(main: i32) -> io::Result<()> {
    let address = std::env::var_os("NOTIFY_SOCKET")
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "NOTIFY_SOCKET is unset"))?;
    let bytes = address.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(&address))?,
    };
    let message = format!("MAINPID={main}\nREADY=1\n");
    UnixDatagram::unbound()?
        .send_to_addr(message.as_bytes(), &address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services_are_safe_as_parts_of_paths() {
        for good in [
            "web.service",
            "web@1.service",
            "a\\x2db.service",
            "a.b_c:d.service",
        ] {
            assert!(ServiceName::try_from(good.to_owned()).is_ok(), "{good}");
        }
        let long = format!("{}.service", "a".repeat(250));
        for bad in [
            "",
            ".service",
            "web",
            "web.socket",
            "../x.service",
            "a b.service",
            "a/b.service",
            &long,
        ] {
            assert!(ServiceName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
