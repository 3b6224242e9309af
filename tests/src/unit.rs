//! `agent-server` as a service, on a host with systemd.

use anyhow::Result;
use lab::{Host, Kind};

use crate::artifacts;

/// The drop-in that adds variables to its environment.
const DROP_IN: &str = "/run/systemd/system/agent-server.service.d/environment.conf";

/// Whether a host runs it as a service.
pub(crate) fn is_for(host: &Host) -> bool {
    matches!(host.kind(), Kind::Services | Kind::Systemd(_))
}

/// Installs the unit and starts it with these variables in its environment; if it is running, it is
/// restarted.
pub(crate) fn start(host: &Host, environment: &[(&str, &str)]) -> Result<()> {
    host.put(artifacts::unit(), "/etc/systemd/system/")?;
    let variables: String = environment
        .iter()
        .map(|(name, value)| format!("Environment=\"{name}={value}\"\n"))
        .collect();
    host.write(DROP_IN, format!("[Service]\n{variables}"))?;
    host.sh("systemctl daemon-reload
         systemctl enable --quiet agent-server
         systemctl reset-failed agent-server 2>/dev/null || true
         systemctl restart agent-server")?;
    Ok(())
}

/// Kills its process and keeps systemd from starting another.
pub(crate) fn kill(host: &Host) -> Result<()> {
    host.sh("mkdir -p /run/systemd/system/agent-server.service.d
         cd /run/systemd/system/agent-server.service.d
         printf '[Service]\\nRestart=no\\n' >restart.conf
         systemctl daemon-reload
         systemctl kill --kill-whom=main --signal=KILL agent-server
         while systemctl is-active --quiet agent-server; do sleep 0.2; done
         rm restart.conf
         systemctl daemon-reload")?;
    Ok(())
}

/// Whether it runs.
pub(crate) fn runs(host: &Host) -> bool {
    host.sh("systemctl is-active --quiet agent-server").is_ok()
}

/// Its state and what it has said since the host booted.
pub(crate) fn log(host: &Host) -> String {
    let ask = "systemctl status --no-pager --lines 0 agent-server 2>&1 || true
        journalctl --no-pager --boot --output short-monotonic --unit agent-server --lines 200 2>&1";
    host.sh(ask).unwrap_or_else(|e| format!("{e:#}"))
}
