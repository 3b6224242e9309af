//! The plot: for each workload, what happens during the outage, method by method, on one scale.

use clap::ValueEnum;

use crate::record::Record;
use crate::sample::{Method, Sample, Span};
use crate::svg::{LETTER, add, document, escape, step};
use crate::workload::Workload;

const WIDTH: f64 = 1000.0;
/// Left and right end of the bars; names are to the left of them.
const LEFT: f64 = 90.0;
const RIGHT: f64 = WIDTH - 20.0;
/// Height of a method: its phases, and below them the client's gap.
const ROW: f64 = 46.0;
const PHASE: f64 = 22.0;
const GAP: f64 = 10.0;
/// Height of the rest of a workload: title and scale.
const TITLE: f64 = 34.0;
const SCALE: f64 = 34.0;
const LEGEND: f64 = 50.0;

/// Kinds of phases, each with its colour and the names of its phases.
const KINDS: [(&str, &str, &[&str]); 7] = [
    (
        "before",
        "#d4d8dd",
        &[
            "connect",
            "preflight",
            "tunnel",
            "image",
            "volumes",
            "stage",
        ],
    ),
    ("stop", "#a9c8ea", &["freeze", "drop packets"]),
    (
        "write down",
        "#6c9cd4",
        &["checkpoint", "dump", "podman checkpoint"],
    ),
    ("send", "#e0a030", &["copy", "ship", "flows"]),
    ("run again", "#74b87b", &["restore", "podman restore"]),
    ("let go on", "#b48ac6", &["cut over", "let packets pass"]),
    (AFTER, "#b5b5b5", &["remove"]),
];
const AFTER: &str = "after";
/// Phases that belong to no kind yet.
const OTHER: (&str, &str) = ("other", "#d9c7a3");
const CLIENT: &str = "#c8323c";

/// Draws the typical rounds of a run.
pub(crate) fn draw(record: &Record) -> String {
    let panels: Vec<String> = record
        .workloads()
        .into_iter()
        .map(|workload| panel(record, workload))
        .collect();
    let each = TITLE + ROW * Method::value_variants().len() as f64 + SCALE;
    let height = each * panels.len() as f64 + LEGEND;
    let mut svg = String::new();
    for (number, panel) in panels.iter().enumerate() {
        let y = each * number as f64;
        add(
            &mut svg,
            format_args!("<g transform=\"translate(0 {y})\">\n{panel}</g>"),
        );
    }
    let y = height - LEGEND / 2.0;
    add(
        &mut svg,
        format_args!("<g transform=\"translate(0 {y})\">\n{}</g>", legend()),
    );
    document(WIDTH, height, &svg)
}

/// One workload. Time 0 is when the client's gap begins.
fn panel(record: &Record, workload: Workload) -> String {
    let samples: Vec<&Sample> = Method::value_variants()
        .iter()
        .filter_map(|method| record.typical(workload, *method))
        .collect();
    let end = |sample: &&Sample| {
        // What comes after the outage may be cut off.
        let phases = sample.run.phases.iter();
        let during = phases.filter(|phase| kind(&phase.name).0 != AFTER);
        let ends = during.map(|phase| phase.span.end_ms());
        ends.fold(sample.gap.end_ms(), f64::max) - sample.gap.start_ms
    };
    let longest = samples.iter().map(end).fold(1.0, f64::max);
    let scale = Scale {
        first_ms: -longest * 0.06,
        last_ms: longest * 1.04,
    };

    let mut out = String::new();
    let title = escape(workload.describe());
    add(
        &mut out,
        format_args!(
            "<text x=\"12\" y=\"22\" font-size=\"14\" font-weight=\"bold\">{title}</text>"
        ),
    );
    for (number, sample) in samples.iter().enumerate() {
        let y = TITLE + ROW * number as f64;
        let (method, below) = (sample.method, y + PHASE / 2.0 + 4.0);
        add(
            &mut out,
            format_args!("<text x=\"12\" y=\"{below}\">{method}</text>"),
        );
        for phase in &sample.run.phases {
            let span = Span {
                start_ms: phase.span.start_ms - sample.gap.start_ms,
                ..phase.span
            };
            out += &scale.bar(span, y, PHASE, kind(&phase.name).1, &phase.name);
        }
        let gap = Span {
            start_ms: 0.0,
            ..sample.gap
        };
        out += &scale.bar(
            gap,
            y + PHASE + 2.0,
            GAP,
            CLIENT,
            "client without an answer",
        );
        let (x, y) = (scale.x(gap.end_ms()) + 5.0, y + PHASE + GAP + 1.0);
        let ms = gap.ms;
        // To the left of its end if there is no room on the right.
        let anchor = if x > RIGHT - 60.0 { "end" } else { "start" };
        let x = if anchor == "end" { x - 10.0 } else { x };
        let fill = if anchor == "end" { "white" } else { CLIENT };
        add(
            &mut out,
            format_args!(
                "<text x=\"{x:.1}\" y=\"{y}\" fill=\"{fill}\" text-anchor=\"{anchor}\">{ms:.0} ms</text>"
            ),
        );
    }
    out += &scale.axis(TITLE + ROW * Method::value_variants().len() as f64);
    out
}

/// From milliseconds to coordinates.
struct Scale {
    first_ms: f64,
    last_ms: f64,
}

impl Scale {
    fn x(&self, ms: f64) -> f64 {
        let part = (ms - self.first_ms) / (self.last_ms - self.first_ms);
        LEFT + part.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    /// A bar, with its name if there is room; nothing if it is entirely out of range.
    fn bar(&self, span: Span, y: f64, height: f64, fill: &str, name: &str) -> String {
        let (from, to) = (self.x(span.start_ms), self.x(span.end_ms()));
        if to - from < 0.05 {
            return String::new();
        }
        let (name, ms, width) = (escape(name), span.ms, to - from);
        let mut out = String::new();
        add(
            &mut out,
            format_args!(
                "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{fill}\" \
             stroke=\"white\" stroke-width=\"0.5\"><title>{name}: {ms:.0} ms</title></rect>"
            ),
        );
        if height >= PHASE && name.len() as f64 * LETTER < width - 4.0 {
            let (x, y) = ((from + to) / 2.0, y + height / 2.0 + 4.0);
            add(
                &mut out,
                format_args!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{name}</text>"),
            );
        }
        out
    }

    fn axis(&self, y: f64) -> String {
        let mut out = String::new();
        let step = step(self.last_ms);
        let bottom = y + 14.0;
        add(
            &mut out,
            format_args!(
                "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{RIGHT}\" y2=\"{y}\" stroke=\"#888\"/>"
            ),
        );
        let mut ms = 0.0;
        while ms <= self.last_ms {
            let (x, tick) = (self.x(ms), y + 3.0);
            add(
                &mut out,
                format_args!(
                    "<line x1=\"{x:.1}\" y1=\"{y}\" x2=\"{x:.1}\" y2=\"{tick}\" stroke=\"#888\"/>\
                 <text x=\"{x:.1}\" y=\"{bottom}\" text-anchor=\"middle\" fill=\"#555\">{ms} ms</text>"
                ),
            );
            ms += step;
        }
        out
    }
}

fn kind(phase: &str) -> (&'static str, &'static str) {
    let found = KINDS.iter().find(|(_, _, names)| names.contains(&phase));
    found.map_or(OTHER, |(kind, colour, _)| (*kind, *colour))
}

fn legend() -> String {
    let kinds = KINDS.iter().map(|(kind, colour, _)| (*kind, *colour));
    let all = kinds.chain([OTHER, ("client without an answer", CLIENT)]);
    let (mut out, mut x) = (String::new(), LEFT);
    for (name, colour) in all {
        let after = x + 16.0;
        add(
            &mut out,
            format_args!(
                "<rect x=\"{x:.1}\" y=\"-9\" width=\"11\" height=\"11\" fill=\"{colour}\"/>\
             <text x=\"{after:.1}\" y=\"0\">{name}</text>"
            ),
        );
        x = after + name.len() as f64 * LETTER + 18.0;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::example;

    #[test]
    fn every_method_of_every_workload_is_drawn() {
        let svg = draw(&example());
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<title>dump: ").count(), 6);
        assert_eq!(svg.matches("<title>client without an answer: ").count(), 6);
        assert_eq!(svg.matches("font-weight=\"bold\"").count(), 2);
        for (open, close) in [
            ("<g ", "</g>"),
            ("<text ", "</text>"),
            ("<title>", "</title>"),
        ] {
            assert_eq!(svg.matches(open).count(), svg.matches(close).count());
        }
    }

    #[test]
    fn bars_lie_within_the_plot() {
        let svg = draw(&example());
        let attribute = |rect: &str, name: &str| -> f64 {
            let (_, rest) = rect.split_once(&format!(" {name}=\"")).unwrap();
            rest.split_once('"').unwrap().0.parse().unwrap()
        };
        let bars: Vec<_> = svg
            .lines()
            .filter(|line| line.contains("<title>"))
            .collect();
        assert!(!bars.is_empty());
        for bar in bars {
            let (x, width) = (attribute(bar, "x"), attribute(bar, "width"));
            assert!(x >= LEFT && x + width <= RIGHT + 0.1, "{bar}");
        }
    }
}
