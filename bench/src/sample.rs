//! What is measured.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use serde::Serialize;

use crate::workload::Workload;

/// A way to move a container, or something to compare it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Method {
    /// The OCI runtime's checkpoint and restore on one host: no migration can do without them.
    Floor,
    /// Podman's checkpoint, a copy, Podman's restore.
    ByHand,
    /// `agent-client migrate`.
    Agents,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Method::Floor => "floor",
            Method::ByHand => "by hand",
            Method::Agents => "agents",
        })
    }
}

/// A period of time; its start is relative to the start of the method.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Span {
    pub(crate) start_ms: f64,
    pub(crate) ms: f64,
}

impl Span {
    pub(crate) fn end_ms(self) -> f64 {
        self.start_ms + self.ms
    }
}

/// A step of a method.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) span: Span,
}

/// What a method reports about itself.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// When it began, by the machine's clock.
    pub(crate) start_unix_ms: f64,
    pub(crate) phases: Vec<Phase>,
    /// How long the container's processes were frozen.
    pub(crate) freeze_ms: f64,
    /// From its start to its end.
    pub(crate) total_ms: f64,
    /// What was sent from host to host.
    pub(crate) bytes: u64,
    /// Peak memory of each of the agents' processes, in bytes, by name.
    pub(crate) peaks: BTreeMap<String, u64>,
}

/// One run of one method on one workload.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) round: usize,
    pub(crate) workload: Workload,
    pub(crate) method: Method,
    /// The longest time in which a client had no answer.
    pub(crate) gap: Span,
    /// What was broken afterwards.
    pub(crate) fault: Option<String>,
    #[serde(flatten)]
    pub(crate) run: Run,
}

/// A run that could not be measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) round: usize,
    pub(crate) workload: Workload,
    pub(crate) method: Method,
    pub(crate) error: String,
}

/// Times the steps of a method, one after the other.
pub(crate) struct Steps {
    start: SystemTime,
    last_ms: f64,
    phases: Vec<Phase>,
}

impl Steps {
    pub(crate) fn start() -> Self {
        Self {
            start: SystemTime::now(),
            last_ms: 0.0,
            phases: Vec::new(),
        }
    }

    /// Time since the start.
    pub(crate) fn now_ms(&self) -> f64 {
        millis(self.start.elapsed().unwrap_or_default())
    }

    /// Names the step that has just ended.
    pub(crate) fn done(&mut self, name: &str) {
        let (start_ms, now_ms) = (self.last_ms, self.now_ms());
        self.last_ms = now_ms;
        self.phases.push(Phase {
            name: name.to_owned(),
            span: Span {
                start_ms,
                ms: now_ms - start_ms,
            },
        });
    }

    /// Ends with the last step.
    pub(crate) fn finish(self, freeze_ms: f64, bytes: u64) -> Run {
        Run {
            start_unix_ms: unix_ms(self.start),
            total_ms: self.last_ms,
            phases: self.phases,
            freeze_ms,
            bytes,
            peaks: BTreeMap::new(),
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms(time: SystemTime) -> f64 {
    millis(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::ValueEnum;

    use super::*;

    /// Three rounds of all methods on two workloads, each round a bit slower.
    pub(crate) fn example() -> Vec<Sample> {
        let mut samples = Vec::new();
        for workload in [Workload::Echo, Workload::Files] {
            for (method, ms) in Method::value_variants()
                .iter()
                .copied()
                .zip([250.0, 1500.0, 300.0])
            {
                for round in 1..=3 {
                    samples.push(sample(workload, method, round, ms));
                }
            }
        }
        samples
    }

    fn sample(workload: Workload, method: Method, round: usize, ms: f64) -> Sample {
        let ms = ms + 10.0 * round as f64;
        let phase = |name: &str, start_ms, ms| Phase {
            name: name.to_owned(),
            span: Span { start_ms, ms },
        };
        let agents = method == Method::Agents;
        let lost = agents && workload == Workload::Files && round == 2;
        Sample {
            round,
            workload,
            method,
            gap: Span {
                start_ms: 100.0,
                ms,
            },
            fault: lost.then(|| "a < b".to_owned()),
            run: Run {
                start_unix_ms: 0.0,
                phases: vec![
                    phase("prepare", 0.0, 100.0),
                    phase("dump", 100.0, ms / 2.0),
                    phase("restore", 100.0 + ms / 2.0, ms / 2.0),
                ],
                freeze_ms: ms,
                total_ms: ms + 100.0,
                bytes: 3 << 20,
                peaks: agents
                    .then(|| ("agent-client".to_owned(), (50 + round as u64) << 20))
                    .into_iter()
                    .collect(),
            },
        }
    }
}
