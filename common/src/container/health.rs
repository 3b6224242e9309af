//! Health checks: systemd timers that Podman creates when it starts a container, but not when it
//! restores one (libpod/container_internal.go calls `createTimer` in `init`, `start` and `unpause`
//! only).

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::command::{self, CommandError};
use crate::durable;
use crate::systemd::{self, systemctl};

/// How long a running check may take to end.
const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// Poll interval.
const POLL: Duration = Duration::from_millis(50);

/// File in the scratch space that says which timers are stopped.
const HELD: &str = "health.json";

/// How often a container's health is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthFacts {
    /// Time between checks, in nanoseconds.
    pub interval_ns: u64,
    /// The same until the first checks have passed, if the container has startup checks.
    pub startup_interval_ns: Option<u64>,
}

/// A timer that was stopped.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    /// Its name without the suffix, by which Podman knows it.
    name: String,
    interval_ns: u64,
}

/// Stops the container's checks until [`resume`], and waits for a running one to end: it would be in the
/// checkpoint. A check that begins while the container is frozen would count as a failure.
///
/// Which checks they are is written to `work` before they stop, so that whoever finds it can resume them.
///
/// # Errors
/// If a running check does not end. The checks are resumed then.
pub async fn hold(id: &str, facts: &HealthFacts, work: &Path) -> Result<(), HealthError> {
    if !systemd::runs() {
        return Ok(());
    }
    let held: Vec<Held> = names(id, "timer")
        .await?
        .into_iter()
        .map(|name| {
            let startup = name.starts_with(&startup(id));
            Held {
                interval_ns: match facts.startup_interval_ns {
                    Some(interval_ns) if startup => interval_ns,
                    _ => facts.interval_ns,
                },
                name,
            }
        })
        .collect();
    let file = work.join(HELD);
    let bytes = serde_json::to_vec(&held).map_err(std::io::Error::from)?;
    durable::replace(&file, 0o644, &bytes)?;
    for timer in &held {
        systemctl(&["stop", &format!("{}.timer", timer.name)]).await?;
    }
    let deadline = Instant::now() + CHECK_LIMIT;
    while under_way(id).await? {
        if Instant::now() > deadline {
            resume(id, work).await?;
            return Err(HealthError::UnderWay);
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Undoes [`hold`]. Harmless if nothing was stopped.
pub async fn resume(id: &str, work: &Path) -> Result<(), HealthError> {
    let file = work.join(HELD);
    let Ok(bytes) = std::fs::read(&file) else {
        return Ok(());
    };
    let held: Vec<Held> = serde_json::from_slice(&bytes).map_err(std::io::Error::from)?;
    let there = names(id, "timer").await?;
    for timer in held.iter().filter(|timer| !there.contains(&timer.name)) {
        create(&timer.name, timer.interval_ns, id).await?;
    }
    Ok(std::fs::remove_file(&file)?)
}

/// Starts checking the health of a restored container, as Podman would if it had started it.
///
/// The timer has the name that Podman falls back to when its own record of the container has none
/// (libpod/healthcheck_linux.go, `removeTransientFiles`), so it goes away when the container stops.
/// Startup checks begin again from the first, and Podman goes on to the regular ones when they have
/// passed.
pub async fn begin(id: &str, facts: &HealthFacts) -> Result<(), HealthError> {
    if !systemd::runs() || !names(id, "timer").await?.is_empty() {
        return Ok(());
    }
    match facts.startup_interval_ns {
        Some(interval_ns) => create(&startup(id), interval_ns, id).await,
        None => create(id, facts.interval_ns, id).await,
    }
}

/// Does what `createTimer` and `startTimer` in libpod/healthcheck_linux.go do.
async fn create(name: &str, interval_ns: u64, id: &str) -> Result<(), HealthError> {
    let podman = command::find("podman").unwrap_or_else(|| "podman".into());
    let mut run = command::new("systemd-run");
    run.args(["--quiet", "--unit", name])
        .arg(format!("--on-unit-inactive={}us", interval_ns / 1000))
        .args(["--timer-property=AccuracySec=1s"])
        .args([
            "--property=LogLevelMax=notice",
            "--property=StartLimitIntervalSec=0",
        ])
        .arg(podman)
        .args(["healthcheck", "run", id]);
    command::stdout(&mut run).await?;
    // The timer counts from the end of a check, so there must be a first one. Nobody waits for it.
    systemctl(&["restart", "--no-block", &format!("{name}.service")]).await?;
    Ok(())
}

fn startup(id: &str) -> String {
    format!("{id}-startup")
}

/// The units of this kind that Podman has created for the container's checks, without the suffix.
async fn names(id: &str, kind: &str) -> Result<Vec<String>, CommandError> {
    let pattern = format!("{id}*.{kind}");
    let listed = systemctl(&["list-units", "--all", "--plain", "--no-legend", &pattern]).await?;
    let suffix = format!(".{kind}");
    let names = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.strip_suffix(&suffix))
        .map(str::to_owned);
    Ok(names.collect())
}

async fn under_way(id: &str) -> Result<bool, CommandError> {
    for name in names(id, "service").await? {
        let state = systemd::show(&format!("{name}.service"), &["ActiveState"]).await?;
        if matches!(
            state["ActiveState"].as_str(),
            "active" | "activating" | "deactivating"
        ) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks cannot be stopped or resumed.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// systemd failed.
    #[error(transparent)]
    Systemd(#[from] CommandError),
    /// The scratch space could not be read or written.
    #[error("{HELD}: {0}")]
    File(#[from] std::io::Error),
    /// A check takes too long.
    #[error("a health check has been under way for {} s: try again when it has ended", CHECK_LIMIT.as_secs())]
    UnderWay,
}
