//! The result of a run: it is written as JSON, and tables and plot are made from it.

use serde::Serialize;

use crate::bars::{self, Bar};
use crate::machine::Machine;
use crate::sample::{Failure, Method, Sample};
use crate::summary::{self, Peak, Summary};
use crate::workload::Workload;

/// Version of the JSON: raised by any change that a reader cannot ignore.
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

impl Record {
    /// Sums up a run.
    pub(crate) fn of(
        command: String,
        date: String,
        rounds: usize,
        samples: Vec<Sample>,
        failures: Vec<Failure>,
    ) -> Self {
        let summaries = summary::summaries(&samples);
        let peaks = summary::peaks(&samples);
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

    /// The round that represents a method on a workload: the one with the median gap.
    pub(crate) fn typical(&self, workload: Workload, method: Method) -> Option<&Sample> {
        let mut samples = summary::of(&self.samples, workload, method);
        samples.sort_by(|a, b| a.gap.ms.total_cmp(&b.gap.ms));
        samples.get(samples.len().checked_sub(1)? / 2).copied()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sample;

    /// A run made from the example samples.
    pub(crate) fn example() -> Record {
        let date = "2026-01-02T03:04:05Z".to_owned();
        Record::of(
            "bench".to_owned(),
            date,
            3,
            sample::tests::example(),
            Vec::new(),
        )
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
