//! The result of a run: what is written as JSON, and what tables and plot are made of.

use clap::ValueEnum;
use serde::Serialize;

use crate::bars::{self, Bar};
use crate::machine::Machine;
use crate::sample::{Failure, Method, Sample};
use crate::statistics::{median, percentile};
use crate::workload::Workload;

/// Of the JSON: raised by any change that a reader cannot ignore.
const VERSION: u32 = 1;

/// Everything about one run.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) command: String,
    /// When it was written, RFC 3339.
    pub(crate) date: String,
    pub(crate) machine: Machine,
    pub(crate) rounds: usize,
    pub(crate) bars: Vec<Bar>,
    pub(crate) summaries: Vec<Summary>,
    pub(crate) peaks: Vec<Peak>,
    pub(crate) failures: Vec<Failure>,
    pub(crate) samples: Vec<Sample>,
}

/// All rounds of one method on one workload.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) workload: Workload,
    pub(crate) method: Method,
    pub(crate) rounds: usize,
    /// Rounds after which a connection or the container's state was not whole.
    pub(crate) faults: usize,
    /// The first of them, in words.
    pub(crate) fault: Option<String>,
    pub(crate) gap_ms: Figure,
    pub(crate) freeze_ms: Figure,
    pub(crate) total_ms: Figure,
    pub(crate) bytes: Figure,
}

/// One figure over all rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) p95: f64,
}

/// The most memory that an agent's process has had on one workload, in any round.
#[derive(Debug, Serialize)]
pub(crate) struct Peak {
    pub(crate) process: String,
    pub(crate) workload: Workload,
    pub(crate) bytes: u64,
}

impl Record {
    /// Sums up a run.
    pub(crate) fn of(
        command: String,
        date: String,
        rounds: usize,
        samples: Vec<Sample>,
        failures: Vec<Failure>,
    ) -> Self {
        let summaries = summaries(&samples);
        let peaks = peaks(&samples);
        Self {
            version: VERSION,
            command,
            date,
            machine: Machine::look(),
            rounds,
            bars: bars::bars(&summaries, &peaks),
            summaries,
            peaks,
            failures,
            samples,
        }
    }

    /// The workloads that were measured, in their order.
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        let mut workloads: Vec<_> = self.summaries.iter().map(|s| s.workload).collect();
        workloads.dedup();
        workloads
    }

    /// The round that stands for all of a method on a workload: the one with the median gap.
    pub(crate) fn typical(&self, workload: Workload, method: Method) -> Option<&Sample> {
        let mut samples = of(&self.samples, workload, method);
        samples.sort_by(|a, b| a.gap.ms.total_cmp(&b.gap.ms));
        samples.get(samples.len().checked_sub(1)? / 2).copied()
    }
}

fn of(samples: &[Sample], workload: Workload, method: Method) -> Vec<&Sample> {
    let fits = |sample: &&Sample| sample.workload == workload && sample.method == method;
    samples.iter().filter(fits).collect()
}

fn workloads(samples: &[Sample]) -> Vec<Workload> {
    let mut workloads: Vec<_> = samples.iter().map(|sample| sample.workload).collect();
    workloads.sort_unstable();
    workloads.dedup();
    workloads
}

fn summaries(samples: &[Sample]) -> Vec<Summary> {
    let summary = |workload, method| {
        let samples = of(samples, workload, method);
        let figure = |value: fn(&Sample) -> f64| {
            let values: Vec<f64> = samples.iter().map(|sample| value(sample)).collect();
            Some(Figure {
                median: median(&values)?,
                p95: percentile(&values, 95)?,
            })
        };
        let faults: Vec<&String> = samples.iter().filter_map(|s| s.fault.as_ref()).collect();
        Some(Summary {
            workload,
            method,
            rounds: samples.len(),
            faults: faults.len(),
            fault: faults.first().map(|fault| (*fault).clone()),
            gap_ms: figure(|sample| sample.gap.ms)?,
            freeze_ms: figure(|sample| sample.run.freeze_ms)?,
            total_ms: figure(|sample| sample.run.total_ms)?,
            bytes: figure(|sample| sample.run.bytes as f64)?,
        })
    };
    workloads(samples)
        .into_iter()
        .flat_map(|workload| {
            Method::value_variants()
                .iter()
                .map(move |method| summary(workload, *method))
        })
        .flatten()
        .collect()
}

fn peaks(samples: &[Sample]) -> Vec<Peak> {
    let mut peaks = Vec::new();
    for workload in workloads(samples) {
        let samples = of(samples, workload, Method::Agents);
        let Some(first) = samples.first() else {
            continue;
        };
        for process in first.run.peaks.keys() {
            let bytes = samples.iter().filter_map(|s| s.run.peaks.get(process));
            peaks.push(Peak {
                process: process.clone(),
                workload,
                bytes: bytes.copied().max().unwrap_or(0),
            });
        }
    }
    peaks
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sample::{Phase, Run, Span};

    /// A run of three rounds of all methods on two workloads, each round a bit slower.
    pub(crate) fn example() -> Record {
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
        let date = "2026-01-02T03:04:05Z".to_owned();
        Record::of("bench".to_owned(), date, 3, samples, Vec::new())
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

    #[test]
    fn rounds_are_summed_up() {
        let record = example();
        assert_eq!(record.workloads(), [Workload::Echo, Workload::Files]);
        assert_eq!(record.summaries.len(), 6);
        let agents = &record.summaries[5];
        assert_eq!((agents.method, agents.rounds), (Method::Agents, 3));
        assert_eq!((agents.gap_ms.median, agents.gap_ms.p95), (320.0, 330.0));
        assert_eq!((agents.faults, agents.fault.as_deref()), (1, Some("a < b")));
        assert_eq!(record.peaks.len(), 2);
        assert_eq!(record.peaks[0].bytes, 53 << 20);
    }

    #[test]
    fn the_typical_round_has_the_median_gap() {
        let record = example();
        let typical = record.typical(Workload::Echo, Method::ByHand).unwrap();
        assert_eq!(typical.gap.ms, 1520.0);
        assert!(record.typical(Workload::Redis, Method::ByHand).is_none());
    }

    #[test]
    fn the_json_has_every_sample() {
        let json = serde_json::to_value(example()).unwrap();
        assert_eq!(json["version"], VERSION);
        assert_eq!(json["samples"].as_array().unwrap().len(), 18);
        assert_eq!(json["samples"][0]["workload"], "echo");
        assert_eq!(json["samples"][0]["phases"][1]["name"], "dump");
        assert_eq!(json["samples"][0]["phases"][1]["start_ms"], 100.0);
    }
}
