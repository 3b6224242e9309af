//! The result of a run: it is written as JSON, and tables and plot are made from it.

use std::fmt;

use serde::Serialize;

use super::case::Case;
use crate::iperf::Moved;
use crate::machine::Machine;
use crate::statistics::{median, percentile};

/// Version of the JSON: raised by any change that a reader cannot ignore.
const VERSION: u32 = 1;

/// The smallest part of a plain flow's rate that a flow must get after a migration.
pub(super) const LEAST: f64 = 0.95;

/// Everything about one run.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    version: u32,
    pub(super) command: String,
    /// When it was written, RFC 3339.
    pub(super) date: String,
    pub(super) machine: Machine,
    /// Which WireGuard the tunnels use.
    pub(super) wireguard: String,
    pub(super) rounds: usize,
    pub(super) least: f64,
    pub(super) summaries: Vec<Summary>,
    pub(super) failures: Vec<Failure>,
    pub(super) samples: Vec<Sample>,
}

/// Medians over all turns of all rounds of a case. Rates are in bits per second.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) case: Case,
    pub(super) rounds: usize,
    /// Before a migration, after one and after two.
    pub(super) stages: Vec<Stage>,
    /// From host to host through a tunnel.
    pub(super) alone: Option<f64>,
    /// The flow after one migration, as a fraction of that.
    pub(super) of_alone: Option<f64>,
}

/// What a flow got after this many migrations.
#[derive(Debug, Serialize)]
pub(super) struct Stage {
    pub(super) migrations: usize,
    pub(super) flow: f64,
    /// Rate of plain iperf3 through as many tunnels.
    pub(super) plain: f64,
    /// Median of the ratios of each turn.
    pub(super) ratio: f64,
    /// The quartiles of these ratios.
    pub(super) ratio_quartiles: (f64, f64),
}

/// A round of a case.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    pub(super) round: usize,
    pub(super) case: Case,
    pub(super) turns: Vec<Turn>,
    pub(super) moved: Vec<Moved>,
    /// The flow: pairs of seconds since its start and the rate up to then, in bits per second.
    pub(super) course: Vec<(f64, f64)>,
}

/// The flow for a while, and right after that what it is compared to. In bits per second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Turn {
    pub(super) migrations: usize,
    pub(super) flow: f64,
    pub(super) plain: f64,
    pub(super) alone: Option<f64>,
    /// When the flow was stopped for others, in seconds since its start.
    pub(super) paused: (f64, f64),
}

/// A round that could not be measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failure {
    pub(super) round: usize,
    pub(super) case: Case,
    pub(super) error: String,
}

impl Record {
    /// Sums up a run.
    pub(super) fn of(
        command: String,
        date: String,
        wireguard: String,
        rounds: usize,
        samples: Vec<Sample>,
        failures: Vec<Failure>,
    ) -> Self {
        Self {
            version: VERSION,
            command,
            date,
            machine: Machine::look(),
            wireguard,
            rounds,
            least: LEAST,
            summaries: Case::ALL
                .into_iter()
                .filter_map(|case| Summary::of(&samples, case))
                .collect(),
            failures,
            samples,
        }
    }

    /// The round that represents a case: the one with the median ratio after the migrations.
    pub(super) fn typical(&self, case: Case) -> Option<&Sample> {
        let mut samples = of(&self.samples, case);
        samples.sort_by(|a, b| a.ratio(1).total_cmp(&b.ratio(1)));
        samples.get(samples.len().checked_sub(1)? / 2).copied()
    }
}

impl Summary {
    fn of(samples: &[Sample], case: Case) -> Option<Self> {
        let samples = of(samples, case);
        let turns: Vec<Turn> = samples.iter().flat_map(|s| &s.turns).copied().collect();
        let stages: Vec<Stage> = (0..3).filter_map(|n| Stage::of(&turns, n)).collect();
        let alone: Vec<f64> = turns.iter().filter_map(|turn| turn.alone).collect();
        let of_alone = turns
            .iter()
            .filter_map(|turn| Some(turn.flow / turn.alone?));
        let of_alone: Vec<f64> = of_alone.collect();
        (!samples.is_empty()).then_some(Self {
            case,
            rounds: samples.len(),
            stages,
            alone: median(&alone),
            of_alone: median(&of_alone),
        })
    }
}

impl Stage {
    fn of(turns: &[Turn], migrations: usize) -> Option<Self> {
        let turns = turns.iter().filter(|turn| turn.migrations == migrations);
        let flow: Vec<f64> = turns.clone().map(|turn| turn.flow).collect();
        let plain: Vec<f64> = turns.clone().map(|turn| turn.plain).collect();
        let ratios: Vec<f64> = turns.map(|turn| turn.flow / turn.plain).collect();
        Some(Self {
            migrations,
            flow: median(&flow)?,
            plain: median(&plain)?,
            ratio: median(&ratios)?,
            ratio_quartiles: (percentile(&ratios, 25)?, percentile(&ratios, 75)?),
        })
    }
}

impl Sample {
    /// The fraction of a plain flow's rate that it got after this many migrations.
    fn ratio(&self, migrations: usize) -> f64 {
        Stage::of(&self.turns, migrations).map_or(0.0, |stage| stage.ratio)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (migrations, when) in ["before", "after one", "after two"].into_iter().enumerate() {
            if let Some(stage) = Stage::of(&self.turns, migrations) {
                let (rate, ratio) = (stage.flow / 1e9, stage.ratio);
                write!(f, "{when} {rate:5.2} Gbit/s ({ratio:.2}×)  ")?;
            }
        }
        Ok(())
    }
}

fn of(samples: &[Sample], case: Case) -> Vec<&Sample> {
    samples
        .iter()
        .filter(|sample| sample.case == case)
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run of three rounds of two cases, the machine half as fast in the second.
    pub(in super::super) fn example() -> Record {
        let mut samples = Vec::new();
        for case in [Case::ALL[0], Case::ALL[3]] {
            for (round, speed) in [(1, 1e9), (2, 5e8), (3, 1e9)] {
                let turn = |migrations, flow, plain| Turn {
                    migrations,
                    flow: flow * speed,
                    plain: plain * speed,
                    alone: (migrations == 1).then_some(0.8 * speed),
                    paused: (
                        migrations as f64 * 10.0 + 2.0,
                        migrations as f64 * 10.0 + 3.0,
                    ),
                };
                samples.push(Sample {
                    round,
                    case,
                    turns: vec![turn(0, 10.0, 10.0), turn(1, 0.75, 0.75), turn(2, 0.4, 0.5)],
                    moved: vec![Moved {
                        start: 5.0,
                        end: 7.0,
                        frozen_from: 6.0,
                        frozen_to: 6.5,
                    }],
                    course: vec![(1.0, 10.0 * speed), (4.0, 0.0), (9.0, 0.75 * speed)],
                });
            }
        }
        let failures = vec![Failure {
            round: 2,
            case: Case::ALL[1],
            error: "it broke\nin two".to_owned(),
        }];
        let (command, date) = ("bench".to_owned(), "2026-01-02T03:04:05Z".to_owned());
        Record::of(command, date, "userspace".to_owned(), 3, samples, failures)
    }

    #[test]
    fn turns_are_summed_up() {
        let record = example();
        assert_eq!(record.summaries.len(), 2);
        let summary = &record.summaries[0];
        assert_eq!((summary.case, summary.rounds), (Case::ALL[0], 3));
        assert_eq!(summary.stages[1].plain, 7.5e8);
        let ratios: Vec<_> = summary.stages.iter().map(|stage| stage.ratio).collect();
        assert_eq!(ratios, [1.0, 1.0, 0.8]);
        assert_eq!(summary.stages[2].ratio_quartiles, (0.8, 0.8));
        assert_eq!((summary.alone, summary.of_alone), (Some(8e8), Some(0.9375)));
    }

    #[test]
    fn the_json_has_every_round() {
        let json = serde_json::to_value(example()).unwrap();
        assert_eq!(json["version"], VERSION);
        assert_eq!(json["samples"].as_array().unwrap().len(), 6);
        assert_eq!(json["samples"][0]["case"]["direction"], "to-container");
        assert_eq!(json["samples"][0]["turns"][1]["plain"], 7.5e8);
    }
}
