//! A client of the image, on a host of its own.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{Fixture, Job, eventually};

use crate::program::Container;

/// Databases take a while to be made; on a busy machine, minutes.
const BEGIN: Duration = Duration::from_secs(400);

/// For a few answers, all of which may be to large questions.
const GO_ON: Duration = Duration::from_secs(180);

/// How long it may take to ask for what was kept, and to end.
const END: Duration = Duration::from_secs(90);

pub(crate) struct Client {
    job: Job,
}

impl Client {
    /// Starts it and waits for this many answers on each of its connections. No container of `host` may end meanwhile.
    pub(crate) fn start(
        f: &Fixture,
        name: &str,
        host: &str,
        containers: &[Container],
        answers: u64,
    ) -> Self {
        let mut ends: Vec<Job> = containers
            .iter()
            .map(|container| Job::start(f.host(host), &["podman", "wait", container.name]))
            .collect();
        let address = f.host(host).ipv4().to_string();
        let script = r#"exec chroot "$(podman image mount localhost/programs)" python3 "/clients/$0.py" "$1""#;
        let command = ["sh", "-ec", script, name, &address];
        let mut client = Self {
            job: Job::start(f.host("c"), &command),
        };
        client.wait_for(answers, BEGIN, &mut ends);
        client
    }

    /// Waits for this many more answers on each of its connections.
    pub(crate) fn goes_on(&mut self, more: u64) {
        self.wait_for(self.answers() + more, GO_ON, &mut []);
    }

    fn wait_for(&mut self, answers: u64, limit: Duration, ends: &mut [Job]) {
        eventually(limit, || {
            if let Some(status) = self.job.ended() {
                panic!("the client has ended, {status}: {}", self.told());
            }
            for end in &mut *ends {
                let status = end.ended();
                assert!(status.is_none(), "a container has ended: {}", self.told());
            }
            let now = self.answers();
            let enough = now >= answers;
            enough
                .then_some(())
                .ok_or_else(|| format!("{now} answers of {answers}: {}", self.job.stderr()))
        });
    }

    /// How many the connection with the fewest has had.
    fn answers(&self) -> u64 {
        let told = self.job.stdout();
        let last = told
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("answers "));
        last.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    fn told(&self) -> String {
        let told = self.job.stdout();
        format!(
            "{}\n{}",
            told.lines().last().unwrap_or(""),
            self.job.stderr()
        )
    }

    /// Ends it; everything that it saw must have been whole.
    pub(crate) fn finish(self) -> Value {
        self.job.signal(Signal::SIGINT);
        let output = self.job.wait(END);
        let seen = output.stdout.lines().last().unwrap_or("");
        let seen: Value =
            serde_json::from_str(seen).unwrap_or_else(|e| panic!("not JSON ({e}):\n{output}"));
        assert_eq!(seen["ok"], true, "{seen:#}");
        seen
    }
}
