//! The plot: the typical flow of each case, through both migrations.

use super::case::Case;
use super::record::{Record, Sample};
use crate::chart::{self, BLUE, Chart, Line, ORANGE};

/// Draws it.
pub(super) fn draw(record: &Record) -> String {
    let charts: Vec<Chart> = record
        .summaries
        .iter()
        .filter_map(|summary| panel(summary.case, record.typical(summary.case)?))
        .collect();
    chart::draw(&charts)
}

fn panel(case: Case, sample: &Sample) -> Option<Chart> {
    let (seconds, _) = *sample.course.last()?;
    let gigabits = |bits: f64| bits / 1e9;
    let plain = sample.turns.iter().flat_map(|turn| {
        let ((from, to), bits) = (turn.paused, gigabits(turn.plain));
        [(from, bits), (to, bits), (to, f64::NAN)]
    });
    let flow = sample.course.iter().scan(0.0, |last, (end, bits)| {
        let start = std::mem::replace(last, *end);
        let mut pauses = sample.turns.iter().map(|turn| turn.paused);
        let paused = pauses.any(|(from, to)| start < to && *end > from);
        Some((*end, if paused { f64::NAN } else { gigabits(*bits) }))
    });
    let line = |name: &str, colour, points| Line {
        name: name.to_owned(),
        colour,
        points,
    };
    Some(Chart {
        title: format!("{case}: Gbit/s"),
        seconds,
        lines: vec![
            line("plain iperf3 over the same way", ORANGE, plain.collect()),
            line("the flow that moves", BLUE, flow.collect()),
        ],
        moved: sample.moved.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::example;
    use super::*;

    #[test]
    fn every_case_is_drawn() {
        let svg = draw(&example());
        assert_eq!(svg.matches("font-weight=\"bold\"").count(), 2);
        // Three comparison flows each, and the flow, which has one hole.
        assert_eq!(svg.matches("<polyline").count(), 2 * (3 + 2));
    }
}
