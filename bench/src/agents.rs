//! A migration by the agents, seen from outside: a command, its report, and what `/proc` says about
//! the processes.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lab::Host;
use serde::Deserialize;

use crate::job::Job;
use crate::sample::{Phase, Run, Span, unix_ms};
use crate::stage::{CONTAINER, LIMIT, Stage, bash};

/// How often the peak memory of a process that will end is read.
const LOOK: Duration = Duration::from_millis(5);

/// Patterns that match the command lines of the agents' long-lived processes.
const SERVER: &str = "^agent-server serve";
const KEEPER: &str = "^tunnel-keeper";

/// What is read from the report; docs/report.md describes all of it.
#[derive(Deserialize)]
struct Report {
    outcome: String,
    error: Option<String>,
    phases: Vec<ReportedPhase>,
    freeze_ms: f64,
    sent_bytes: u64,
}

#[derive(Deserialize)]
struct ReportedPhase {
    name: String,
    start_ms: f64,
    duration_ms: f64,
}

/// Moves the container.
pub(crate) fn run(stage: &Stage) -> Result<Run> {
    let (source, destination) = (stage.source(), stage.destination());
    for (host, pattern) in [
        (destination, SERVER),
        (source, KEEPER),
        (destination, KEEPER),
    ] {
        forget_peak(host, pattern)?;
    }

    let mut client_peak = 0;
    let run = conduct(source, destination, |job| {
        let (ended, peak) = watched(job);
        client_peak = peak;
        ended
    })?;

    let peaks = [
        ("agent-client", client_peak),
        ("agent-server", peak(destination, SERVER)?),
        ("tunnel-keeper at the source", peak(source, KEEPER)?),
        (
            "tunnel-keeper at the destination",
            peak(destination, KEEPER)?,
        ),
    ];
    Ok(Run {
        peaks: BTreeMap::from(peaks.map(|(name, bytes)| (name.to_owned(), bytes))),
        ..run
    })
}

/// Moves the container from one host to another, without measuring memory.
pub(crate) fn migrate(from: &Host, to: &Host) -> Result<Run> {
    conduct(from, to, |job| job.succeed(LIMIT))
}

fn conduct(from: &Host, to: &Host, end: impl FnOnce(&mut Job) -> Result<String>) -> Result<Run> {
    let start = SystemTime::now();
    let argv = [
        "agent-client",
        "migrate",
        CONTAINER,
        "--to",
        to.name(),
        "--yes",
        "--format",
        "json",
    ];
    let mut job = Job::start(from, &argv)?;
    let ended = end(&mut job);
    let total_ms = start.elapsed().unwrap_or_default().as_secs_f64() * 1e3;
    let text = ended?;
    let report: Report = serde_json::from_str(&text).with_context(|| format!("{text:?}"))?;
    ensure!(
        report.outcome == "moved",
        "{}: {}",
        report.outcome,
        report.error.unwrap_or_default()
    );
    Ok(Run {
        start_unix_ms: unix_ms(start),
        phases: report.phases.into_iter().map(Phase::from).collect(),
        freeze_ms: report.freeze_ms,
        total_ms,
        bytes: report.sent_bytes,
        peaks: BTreeMap::new(),
    })
}

impl From<ReportedPhase> for Phase {
    fn from(reported: ReportedPhase) -> Self {
        Phase {
            name: reported.name.replace('_', " "),
            span: Span {
                start_ms: reported.start_ms,
                ms: reported.duration_ms,
            },
        }
    }
}

/// Waits for the command, and watches its memory meanwhile: the kernel forgets that with the
/// process, and what wait4(2) reports is the peak of the command or of any program it ran.
fn watched(job: &mut Job) -> (Result<String>, u64) {
    let (outer, ended) = (job.id(), AtomicBool::new(false));
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !ended.load(Ordering::Relaxed) {
                most = most.max(peak_of_child(outer).unwrap_or(0));
                thread::sleep(LOOK);
            }
            most
        });
        let result = job.succeed(LIMIT);
        ended.store(true, Ordering::Relaxed);
        (result, watch.join().expect("no thread panics"))
    })
}

/// Peak memory of a process's only child, once that is an agent.
fn peak_of_child(outer: u32) -> Option<u64> {
    let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
    let child = children.split_whitespace().next()?;
    let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
    status
        .starts_with("Name:\tagent-client\n")
        .then(|| high_water(&status))?
}

/// The highest peak memory, since [`forget_peak`], of those processes of a host whose command lines
/// match the pattern.
fn peak(host: &Host, pattern: &str) -> Result<u64> {
    let script = format!("cat $(pgrep -f '{pattern}' | sed 's|.*|/proc/&/status|')");
    let statuses = bash(host, &script)?;
    let most = statuses.lines().filter_map(high_water).max();
    most.with_context(|| format!("no VmHWM of {pattern} on {}", host.name()))
}

/// Restarts the kernel's count of peak memory (proc_pid_clear_refs(5)).
fn forget_peak(host: &Host, pattern: &str) -> Result<()> {
    let script =
        format!("for pid in $(pgrep -f '{pattern}'); do echo 5 >/proc/$pid/clear_refs; done");
    bash(host, &script).map(drop)
}

/// VmHWM in bytes.
fn high_water(status: &str) -> Option<u64> {
    let (_, rest) = status.split_once("VmHWM:")?;
    let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read() {
        let status = "Name:\tagent-client\nVmPeak:\t  99 kB\nVmHWM:\t   11976 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(high_water(status), Some(11976 << 10));
        assert_eq!(high_water("Name:\tx\n"), None);
    }
}
