//! The plot: for each workload, what happens during the outage, method by method, on one scale.

use clap::ValueEnum;
use plot::timeline::{Panel, Row, around, is_after};

use crate::record::Record;
use crate::sample::{Method, Sample, Span};
use crate::workload::Workload;

/// Draws the typical rounds of a run.
pub(crate) fn draw(record: &Record) -> String {
    let workloads = record.workloads().into_iter();
    let panels: Vec<Panel> = workloads.map(|workload| panel(record, workload)).collect();
    plot::timeline::draw(&panels, "client without an answer")
}

/// One workload. Time 0 is when the client's gap begins.
fn panel(record: &Record, workload: Workload) -> Panel {
    let samples: Vec<&Sample> = Method::value_variants()
        .iter()
        .filter_map(|method| record.typical(workload, *method))
        .collect();
    let end = |sample: &&Sample| {
        // What comes after the outage may be cut off.
        let phases = sample.run.phases.iter();
        let during = phases.filter(|phase| !is_after(&phase.name));
        let ends = during.map(|phase| phase.span.end_ms());
        ends.fold(sample.gap.end_ms(), f64::max) - sample.gap.start_ms
    };
    Panel {
        title: workload.describe().to_owned(),
        shown: around(samples.iter().map(end).fold(1.0, f64::max)),
        rows: samples.into_iter().map(row).collect(),
    }
}

fn row(sample: &Sample) -> Row {
    let since = |span: Span| plot::timeline::Span {
        start_ms: span.start_ms - sample.gap.start_ms,
        ms: span.ms,
    };
    let phases = sample.run.phases.iter();
    Row {
        name: sample.method.to_string(),
        phases: phases
            .map(|phase| (phase.name.clone(), since(phase.span)))
            .collect(),
        gap: Some(since(sample.gap)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::example;

    #[test]
    fn every_method_of_every_workload_is_drawn() {
        let svg = draw(&example());
        assert_eq!(svg.matches("<title>dump: ").count(), 6);
        assert_eq!(svg.matches("<title>client without an answer: ").count(), 6);
        assert_eq!(svg.matches("font-weight=\"bold\"").count(), 2);
    }
}
