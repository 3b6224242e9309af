//! The [agent](super::agent) as a service, in a host that runs systemd.

use std::ffi::OsString;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{agent, setup};

/// Its name.
pub(super) const NAME: &str = "lab-agent.service";

/// The unit. It removes its link before anything that manages networks can see it, and stays to the
/// very end of a shutdown. When it is killed, its commands are left to their sessions.
pub(super) const UNIT: &str = "\
[Unit]
Description=Runs commands for the lab
DefaultDependencies=no
After=local-fs.target
Wants=network-pre.target
Before=network-pre.target

[Service]
ExecStart=/run/lab/lab machine service
KillMode=process

[Install]
WantedBy=sysinit.target
";

/// What systemd calls a boot that has ended.
const BOOTED: [&str; 3] = ["running", "degraded", "maintenance"];

/// Serves for ever, from the moment the host has booted: a command in a session must find everything
/// that makes a session.
pub(crate) fn run() -> Result<()> {
    let listener = setup::listen()?;
    while !booted()? {
        // Early on, there may be nobody to ask yet.
        sleep(Duration::from_millis(500));
    }
    let lab = std::env::current_exe()?.into_os_string();
    let words = ["machine", "session", "--"].map(OsString::from);
    let runner: Vec<OsString> = std::iter::once(lab).chain(words).collect();
    agent::serve(&listener, runner.leak())
}

fn booted() -> Result<bool> {
    let output = Command::new("systemctl")
        .args(["is-system-running", "--wait"])
        .output()
        .context("cannot start systemctl")?;
    let state = String::from_utf8_lossy(&output.stdout);
    Ok(BOOTED.contains(&state.trim()))
}
