//! A past migration as a picture.

use common::report::{Phase, Report};
use common::status;
use plot::timeline::{Panel, Row, Span, around, draw};

use super::{Past, outage};

/// Draws it: all of it, and its outage, as the benchmarks do. Nothing without a report.
pub(crate) fn picture(past: &Past) -> Option<String> {
    let report = past.report.as_ref()?;
    let ends = report.phases.iter().map(|p| p.start_ms + p.duration_ms);
    let frozen_at_ms = outage(report).next().map(|phase| phase.start_ms as f64);
    let whole = Panel {
        title: status::line(&past.record),
        shown: Span {
            start_ms: 0.0,
            ms: ends.max().unwrap_or_default().max(1) as f64,
        },
        rows: vec![row("migration", report, frozen_at_ms, 0.0)],
    };
    let close = frozen_at_ms.map(|at_ms| Panel {
        title: "The outage".to_owned(),
        shown: around(report.freeze_ms as f64),
        rows: vec![row("outage", report, frozen_at_ms, at_ms)],
    });
    let panels: Vec<_> = [whole].into_iter().chain(close).collect();
    Some(draw(&panels, "outage"))
}

/// Its phases, with the time 0 at `zero_ms`.
fn row(name: &str, report: &Report, frozen_at_ms: Option<f64>, zero_ms: f64) -> Row {
    let span = |phase: &Phase| Span {
        start_ms: phase.start_ms as f64 - zero_ms,
        ms: phase.duration_ms as f64,
    };
    let named = |phase| <&str>::from(phase).replace('_', " ");
    Row {
        name: name.to_owned(),
        phases: report
            .phases
            .iter()
            .map(|phase| (named(phase.name), span(phase)))
            .collect(),
        gap: frozen_at_ms.map(|at_ms| Span {
            start_ms: at_ms - zero_ms,
            ms: report.freeze_ms as f64,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::past;

    #[test]
    fn all_phases_and_the_outage_are_drawn() {
        let svg = picture(&past()).unwrap();
        for (what, times) in [
            ("<title>connect: 400 ms", 1),
            ("<title>dump: 150 ms", 2),
            ("<title>cut over: 25 ms", 2),
            ("<title>outage: 250 ms", 2),
        ] {
            assert_eq!(svg.matches(what).count(), times, "{what}");
        }
    }

    #[test]
    fn without_a_report_there_is_nothing_to_draw() {
        let mut past = past();
        past.report = None;
        assert_eq!(picture(&past), None);
    }
}
