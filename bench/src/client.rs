//! The clients of a container while it moves.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::job::Job;
use crate::stage::{LIMIT, Stage, until};
use crate::workload::Workload;

/// How long everything is watched before and after.
const STEADY: Duration = Duration::from_millis(800);

/// A connection is alive if its last answer is younger than this.
const FRESH_MS: u64 = 200;

/// A `load` with its connections open.
pub(crate) struct Client {
    job: Job,
    workload: Workload,
    target: String,
}

/// What it saw: the part of its report that is read here.
#[derive(Deserialize)]
pub(crate) struct Seen {
    ok: bool,
    longest_wait: Option<Wait>,
    #[serde(default)]
    errors: Vec<String>,
    #[serde(default)]
    error: Option<String>,
}

/// The longest time without an answer.
#[derive(Clone, Copy, Deserialize)]
pub(crate) struct Wait {
    pub(crate) start_unix_ms: f64,
    pub(crate) ms: f64,
}

impl Client {
    /// Connects to the container at the source, and lets it run for a moment.
    pub(crate) fn connect(stage: &Stage, workload: Workload) -> Result<Self> {
        let target = format!("{}:{}", stage.source().ipv4(), workload.port());
        let mut argv = vec!["load"];
        argv.extend(workload.load());
        argv.extend([&target, "--json"]);
        let mut client = Self {
            job: Job::start(stage.client(), &argv)?,
            workload,
            target,
        };
        until(
            Duration::from_secs(20),
            "all connections have answers",
            || client.all_go_on(stage),
        )?;
        sleep(STEADY);
        Ok(client)
    }

    /// Waits until every connection is alive.
    pub(crate) fn wait_recovered(&mut self, stage: &Stage) -> Result<()> {
        sleep(STEADY);
        until(LIMIT, "every connection goes on", || self.all_go_on(stage))?;
        sleep(STEADY);
        Ok(())
    }

    /// Ends it.
    pub(crate) fn finish(mut self) -> Result<Seen> {
        self.job.interrupt()?;
        let text = self.job.end(Duration::from_secs(60))?;
        serde_json::from_str(text.trim()).with_context(|| format!("load said {text:?}"))
    }

    /// Whether the right number of connections exist, each with a recent answer.
    fn all_go_on(&mut self, stage: &Stage) -> Result<bool> {
        ensure!(!self.job.ended()?, "load has ended: {}", self.job.stdout()?);
        let list = format!("ss -OHtin state established dst {}", self.target);
        let sockets = stage.client().sh(&list)?;
        Ok(sockets.lines().filter(|socket| goes_on(socket)).count() == self.workload.connections())
    }
}

impl Seen {
    /// The gap.
    pub(crate) fn wait(&self) -> Result<Wait> {
        self.longest_wait.context("load had no answer at all")
    }

    /// Why not all connections stayed whole, if they did not.
    pub(crate) fn fault(&self) -> Option<String> {
        let first = self.errors.first().or(self.error.as_ref());
        (!self.ok).then(|| first.map_or("load is not content".to_owned(), Clone::clone))
    }
}

/// Whether a socket in the output of `ss` has recent answers. After a long outage the peer may have
/// repeated its data while our own end still waits for its timer.
fn goes_on(socket: &str) -> bool {
    age_ms(socket).is_some_and(|age| age < FRESH_MS) && !socket.contains(" backoff:")
}

/// How long ago it has received anything.
fn age_ms(socket: &str) -> Option<u64> {
    let (_, rest) = socket.split_once("lastrcv:")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::goes_on;

    #[test]
    fn a_connection_goes_on_once_both_ends_send() {
        let socket = |more| format!("0 0 a:1 b:2 cubic cwnd:10{more}");
        assert!(goes_on(&socket(" lastsnd:1 lastrcv:17 lastack:1")));
        assert!(!goes_on(&socket(" lastsnd:1 lastrcv:1700 lastack:1")));
        assert!(!goes_on(&socket(" backoff:9 lastsnd:1 lastrcv:17")));
        assert!(!goes_on(&socket("")));
    }
}
