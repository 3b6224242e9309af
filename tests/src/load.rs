//! The checker at the far end of a container's connections.

use std::time::Duration;

use lab::Host;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{Job, eventually};

/// How long it may take to connect, and to notice that it should end and to report: it gives up sooner by itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many connections a host has to a target.
pub(crate) fn open_connections(host: &Host, target: &str, udp: bool) -> usize {
    let protocol = if udp { "u" } else { "t" };
    let list = format!("ss -Hn{protocol} state established dst {target}");
    host.sh(&list).expect("ss runs").lines().count()
}

/// A `load` that runs in a host, with its connections open.
#[derive(Debug)]
pub struct Load {
    what: String,
    job: Job,
}

impl Load {
    /// Starts `load` with these arguments.
    #[track_caller]
    pub(crate) fn start(host: &Host, arguments: &[&str]) -> Self {
        let mut argv = vec!["load"];
        argv.extend(arguments);
        argv.push("--json");
        Self {
            what: argv.join(" "),
            job: Job::start(host, &argv),
        }
    }

    /// Starts `load` with these arguments and waits until its host has this many connections to the
    /// target. If the connection is refused, it starts again: a container exists before its program
    /// listens.
    ///
    /// # Panics
    /// If it ends for another reason, or takes too long.
    #[track_caller]
    pub(crate) fn open(host: &Host, arguments: &[&str], target: &str, connections: usize) -> Self {
        let udp = arguments.contains(&"--udp");
        let mut load = Self::start(host, arguments);
        eventually(PATIENCE, || {
            if load.job.ended().is_some() {
                if !load.told().contains("Connection refused") {
                    load.assert_runs();
                }
                load = Self::start(host, arguments);
            }
            let open = open_connections(host, target, udp);
            (open == connections)
                .then_some(())
                .ok_or_else(|| format!("{open} of {connections} open: {}", load.what))
        });
        load
    }

    /// Checks that it has not ended: a `load count` ends at the first fault.
    ///
    /// # Panics
    /// If it has.
    #[track_caller]
    pub fn assert_runs(&mut self) {
        if let Some(status) = self.job.ended() {
            panic!("{} has ended, {status}:\n{}", self.what, self.told());
        }
    }

    /// Ends it and returns what it saw, good or bad.
    ///
    /// # Panics
    /// If it says nothing.
    #[track_caller]
    pub fn finish(self) -> Value {
        self.job.signal(Signal::SIGINT);
        let what = self.what;
        let output = self.job.wait(PATIENCE);
        let seen: Value = serde_json::from_str(output.stdout.trim())
            .unwrap_or_else(|e| panic!("{what} does not print JSON ({e}):\n{output}"));
        println!("{what}: {seen}");
        seen
    }

    /// Ends it; everything that it saw must have been whole.
    ///
    /// # Panics
    /// If it was not; the message has all that it saw.
    #[track_caller]
    pub fn finish_whole(self) -> Value {
        let what = self.what.clone();
        let seen = self.finish();
        let none = |field: &str| seen.get(field).is_none_or(|number| number == 0);
        let datagrams = seen["protocol"] == "udp";
        assert!(
            seen["ok"] == true
                && none("resets")
                && none("other_server")
                && none("corrupted")
                && (datagrams || (none("lost") && none("repeated") && none("reordered"))),
            "{what}: {seen:#}"
        );
        seen
    }

    fn told(&self) -> String {
        format!("{}{}", self.job.stdout(), self.job.stderr())
    }
}
