//! What the figures have to reach. All bars compare figures within one run, except for memory: how
//! fast a machine is says nothing about a program.

use serde::Serialize;

use crate::sample::Method;
use crate::summary::{Peak, Summary};
use crate::workload::Workload;

/// A bar.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Bar {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// The largest value allowed.
    pub(crate) limit: f64,
    /// `None` if the run did not measure what it takes.
    pub(crate) measured: Option<f64>,
    /// The same ratio for the floor, where that is informative.
    pub(crate) floor: Option<f64>,
}

impl Bar {
    /// Whether it was reached.
    pub(crate) fn verdict(&self) -> &'static str {
        match self.measured {
            Some(measured) if measured <= self.limit => "met",
            Some(_) => "missed",
            None => "not measured",
        }
    }
}

const RATIO: &str = "×";

/// Compares the summaries of a run with the bars.
pub(crate) fn bars(summaries: &[Summary], peaks: &[Peak]) -> Vec<Bar> {
    let find = |workload, method| {
        let mut all = summaries.iter();
        all.find(|s| s.workload == workload && s.method == method)
    };
    let gap = |workload, method| Some(find(workload, method)?.gap_ms.median);
    let agents = |workload| gap(workload, Method::Agents);
    let ratio = |one: Option<f64>, other: Option<f64>| Some(one? / other?);
    let echo = agents(Workload::Echo);
    let floor = |workload| Some(find(workload, Method::Floor)?.total_ms.median);
    let bar = |what, limit, measured| Bar {
        what,
        unit: RATIO,
        limit,
        measured,
        floor: None,
    };
    // How much more work the same processes and connections are for CRIU.
    let against_echo = |what, limit, workload| Bar {
        floor: ratio(floor(workload), floor(Workload::Echo)),
        ..bar(what, limit, ratio(agents(workload), echo))
    };
    vec![
        bar(
            "gap / time of the floor (echo)",
            1.5,
            ratio(echo, floor(Workload::Echo)),
        ),
        bar(
            "gap / gap by hand (echo)",
            0.2,
            ratio(echo, gap(Workload::Echo, Method::ByHand)),
        ),
        against_echo(
            "gap with 100 connections / with one",
            1.2,
            Workload::EchoHundred,
        ),
        against_echo("gap with 2 GiB of files / without", 1.1, Workload::Files),
        against_echo("gap with 1 GiB of memory / without", 1.3, Workload::Memory),
        against_echo(
            "the same, 32 MiB written all the time",
            2.0,
            Workload::MemoryWritten,
        ),
        Bar {
            what: "most memory of any agent's process",
            unit: " MiB",
            limit: 64.0,
            measured: peaks
                .iter()
                .map(|peak| peak.bytes as f64 / f64::from(1 << 20))
                .max_by(f64::total_cmp),
            floor: None,
        },
    ]
}

#[cfg(test)]
mod tests {
    use crate::sample::tests::example;
    use crate::summary::{peaks, summaries};

    use super::*;

    #[test]
    fn ratios_are_those_of_the_medians() {
        let samples = example();
        let bars = bars(&summaries(&samples), &peaks(&samples));
        let measured: Vec<_> = bars.iter().map(|bar| bar.measured).collect();
        let (floor, by_hand, agents) = (370.0, 1520.0, 320.0);
        let expected = [
            Some(agents / floor),
            Some(agents / by_hand),
            None,
            Some(1.0),
            None,
            None,
            Some(53.0),
        ];
        assert_eq!(measured, expected);
        let floors: Vec<_> = bars.iter().map(|bar| bar.floor).collect();
        assert_eq!(floors, [None, None, None, Some(1.0), None, None, None]);
        let verdicts: Vec<_> = bars.iter().map(|bar| bar.verdict()).collect();
        let none = "not measured";
        assert_eq!(verdicts, ["met", "missed", none, "met", none, none, "met"]);
    }
}
