//! Summaries of all rounds of a method on a workload.

use clap::ValueEnum;
use serde::Serialize;

use crate::sample::{Method, Sample};
use crate::statistics::{median, percentile};
use crate::workload::Workload;

/// All rounds of one method on one workload.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) workload: Workload,
    pub(crate) method: Method,
    pub(crate) rounds: usize,
    /// Rounds after which a connection or the container's state was broken.
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

/// Peak memory of one of the agents' processes on one workload, over all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Peak {
    pub(crate) process: String,
    pub(crate) workload: Workload,
    pub(crate) bytes: u64,
}

/// The samples of one method on one workload.
pub(crate) fn of(samples: &[Sample], workload: Workload, method: Method) -> Vec<&Sample> {
    let fits = |sample: &&Sample| sample.workload == workload && sample.method == method;
    samples.iter().filter(fits).collect()
}

fn workloads(samples: &[Sample]) -> Vec<Workload> {
    let mut workloads: Vec<_> = samples.iter().map(|sample| sample.workload).collect();
    workloads.sort_unstable();
    workloads.dedup();
    workloads
}

/// Summarizes every method on every workload, in their order.
pub(crate) fn summaries(samples: &[Sample]) -> Vec<Summary> {
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

/// Peak memory of each of the agents' processes on each workload.
pub(crate) fn peaks(samples: &[Sample]) -> Vec<Peak> {
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
