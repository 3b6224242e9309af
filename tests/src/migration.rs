//! One `agent-client migrate` and what it printed.

use std::time::Duration;

use lab::Output;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::Job;

/// Longer than any migration in a lab takes, also one whose memory changes all the time on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// A migration that has ended.
#[derive(Debug)]
pub struct Migration {
    /// Exit status and everything it printed.
    pub output: Output,
    /// The object it printed; null if it printed none.
    pub report: Value,
}

impl Migration {
    /// Waits for the end of a command that was told to print JSON.
    ///
    /// # Panics
    /// If it takes too long, or prints anything but one object.
    #[track_caller]
    pub fn of(job: Job) -> Self {
        let output = job.wait(LIMIT);
        let report = match output.stdout.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text)
                .unwrap_or_else(|e| panic!("stdout is not one JSON object ({e}):\n{output}")),
        };
        Self { output, report }
    }

    /// Sends Ctrl-C, then waits for the end.
    #[track_caller]
    pub fn interrupted(job: Job) -> Self {
        job.signal(Signal::SIGINT);
        Self::of(job)
    }

    /// The exit status.
    pub fn code(&self) -> i32 {
        self.output
            .status
            .code()
            .expect("the lab turns signals into codes")
    }

    /// What it says to a person: stderr, and the report's error and warnings.
    pub fn words(&self) -> String {
        format!(
            "{}\n{}\n{}",
            self.output.stderr, self.report["error"], self.report["warnings"]
        )
    }

    /// Checks that the container moved, and that the report says so without warnings.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_moved(&self) -> &Self {
        let report = &self.report;
        assert!(
            self.code() == 0 && report["outcome"] == "moved" && report["error"].is_null(),
            "{}",
            self.output
        );
        assert_eq!(report["version"], 2, "{report:#}");
        for phase in ["tunnel", "dump", "ship", "restore", "cut_over", "remove"] {
            assert!(self.phase(phase).is_some(), "no phase {phase}: {report:#}");
        }
        assert!(report["freeze_ms"].as_u64() > Some(0), "{report:#}");
        assert!(report["sent_bytes"].as_u64() > Some(0), "{report:#}");
        println!(
            "moved: frozen {} ms, {} bytes, flows {}, tunnel {}, warnings {}",
            report["freeze_ms"],
            report["sent_bytes"],
            report["flows"],
            report["tunnel"],
            report["warnings"]
        );
        self
    }

    /// The warnings in the report, except that datagrams were lost because the container did not read them: a program
    /// that gets no processor for a moment, on a busy machine, cannot.
    ///
    /// # Panics
    /// If there is no report.
    pub fn warnings(&self) -> Vec<&str> {
        let all = self.report["warnings"].as_array().expect("a list");
        let all = all.iter().map(|warning| warning.as_str().expect("text"));
        all.filter(|warning| !warning.contains("had not read all datagrams"))
            .collect()
    }

    /// The phase of this name in the report.
    pub fn phase(&self, name: &str) -> Option<&Value> {
        let phases = self.report["phases"].as_array()?;
        phases.iter().find(|phase| phase["name"] == name)
    }

    /// Checks that it ended with this exit status and the outcome for it, and told the person each
    /// of `words` (in any case).
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_failed(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code(), code, "{}", self.output);
        let outcome = match code {
            1 => "failed",
            4 => "refused",
            _ => panic!("no outcome goes with {code}"),
        };
        assert_eq!(self.report["outcome"], outcome, "{}", self.output);
        assert!(self.report["error"].is_string(), "{}", self.output);
        self.assert_says(words)
    }

    /// Checks that it said each of `words`, in any case.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_says(&self, words: &[&str]) -> &Self {
        let said = self.words().to_lowercase();
        for word in words {
            assert!(
                said.contains(&word.to_lowercase()),
                "does not say {word:?}: {}",
                self.output
            );
        }
        println!("status {}: {}", self.code(), self.report["error"]);
        self
    }
}
