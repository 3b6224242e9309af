//! The tables, in Markdown that reads well as plain text.

use common::units;

use crate::record::Record;
use crate::sample::Method;
use crate::summary::{Figure, Summary};

/// Bars, times and memory.
pub(crate) fn tables(record: &Record) -> String {
    format!("{}\n{}\n{}", bars(record), times(record), memory(record))
}

/// The bars.
pub(crate) fn bars(record: &Record) -> String {
    let rows = record.bars.iter().map(|bar| {
        let value = |number: f64| format!("{number:.2}{}", bar.unit);
        let figure = |figure: Option<f64>| figure.map_or("–".to_owned(), value);
        let limit = format!("≤ {}{}", bar.limit, bar.unit);
        [
            bar.what.to_owned(),
            limit,
            figure(bar.measured),
            bar.verdict().to_owned(),
            figure(bar.floor),
        ]
    });
    table(["bar", "allowed", "measured", "", "the floor's own"], rows)
}

/// The times of all methods.
pub(crate) fn times(record: &Record) -> String {
    let rows = record.summaries.iter().map(|summary| {
        [
            summary.workload.describe().to_owned(),
            summary.method.to_string(),
            milliseconds(summary.gap_ms),
            milliseconds(summary.freeze_ms),
            milliseconds(summary.total_ms),
            moved(summary),
            whole(summary),
        ]
    });
    let header = [
        "workload",
        "how",
        "gap, ms",
        "frozen, ms",
        "total, ms",
        "moved",
        "whole",
    ];
    table(header, rows)
}

/// Peak memory per process and workload.
pub(crate) fn memory(record: &Record) -> String {
    let rows = record.peaks.iter().map(|peak| {
        [
            peak.process.clone(),
            peak.workload.describe().to_owned(),
            units::bytes(peak.bytes),
        ]
    });
    table(["process", "workload", "most memory"], rows)
}

fn milliseconds(figure: Figure) -> String {
    format!("{:.0} ({:.0})", figure.median, figure.p95)
}

fn moved(summary: &Summary) -> String {
    match summary.method {
        Method::Floor => "–".to_owned(),
        _ => units::bytes(summary.bytes.median as u64),
    }
}

fn whole(summary: &Summary) -> String {
    let whole = summary.rounds - summary.faults;
    format!("{whole} of {}", summary.rounds)
}

/// A table whose columns are as wide as their contents.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows);
    let widths: [usize; N] = std::array::from_fn(|column| {
        let width = |line: &[String; N]| line[column].chars().count();
        lines.iter().map(width).max().unwrap_or(0).max(3)
    });
    lines.insert(1, widths.map(|width| "-".repeat(width)));
    let line = |cells: [String; N]| {
        let padded = cells.into_iter().zip(widths);
        let cells: Vec<_> = padded
            .map(|(text, width)| format!("{text:width$}"))
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    lines.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::example;

    #[test]
    fn a_line_per_bar_and_figure() {
        let record = example();
        let bars = bars(&record);
        let line = bars.lines().nth(3).unwrap();
        assert_eq!(
            line.split('|').map(str::trim).collect::<Vec<_>>(),
            [
                "",
                "gap / gap by hand (echo)",
                "≤ 0.2×",
                "0.21×",
                "missed",
                "–",
                ""
            ]
        );
        let times = times(&record);
        assert_eq!(times.lines().count(), 2 + 6);
        let line = times.lines().last().unwrap();
        for cell in [" agents ", " 320 (330) ", " 3.0 MiB ", " 2 of 3 "] {
            assert!(line.contains(cell), "{line}");
        }
    }

    #[test]
    fn columns_are_straight() {
        let tables = tables(&example());
        for table in tables.split("\n\n") {
            let widths: Vec<_> = table.lines().map(|line| line.chars().count()).collect();
            assert!(widths.windows(2).all(|w| w[0] == w[1]), "{table}");
        }
    }
}
