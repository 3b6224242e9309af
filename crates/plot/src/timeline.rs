//! What happens when, phase by phase: rows of bars on a scale.

use crate::svg::{LETTER, add, document, escape, step};

const WIDTH: f64 = 1000.0;
/// Left and right end of the bars; rows' names are to the left of them.
const LEFT: f64 = 90.0;
const RIGHT: f64 = WIDTH - 20.0;
/// Height of a row: its phases, and below them the gap.
const ROW: f64 = 46.0;
const PHASE: f64 = 22.0;
const GAP: f64 = 10.0;
/// Height of the rest of a panel: title and scale.
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
            "memory",
            "stage",
            "files",
            "flows",
        ],
    ),
    ("stop", "#a9c8ea", &["freeze", "drop packets"]),
    (
        "write down",
        "#6c9cd4",
        &["checkpoint", "dump", "podman checkpoint"],
    ),
    ("send", "#e0a030", &["copy", "ship"]),
    ("run again", "#74b87b", &["restore", "podman restore"]),
    ("let go on", "#b48ac6", &["cut over", "let packets pass"]),
    (AFTER, "#b5b5b5", &["remove", "roll back"]),
];
const AFTER: &str = "after";
/// Phases that belong to no kind yet.
const OTHER: (&str, &str) = ("other", "#d9c7a3");
const CLIENT: &str = "#c8323c";

/// A period of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Its start; below 0 is before the moment that its panel begins to count at.
    pub start_ms: f64,
    /// Its length.
    pub ms: f64,
}

impl Span {
    /// Its end.
    pub fn end_ms(self) -> f64 {
        self.start_ms + self.ms
    }
}

/// Rows on one scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// What is drawn; the rest is cut off.
    pub shown: Span,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

/// Phases one after the other, and the gap that they cause.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// To its left.
    pub name: String,
    /// Each with its name, which decides its colour.
    pub phases: Vec<(String, Span)>,
    /// The gap.
    pub gap: Option<Span>,
}

/// Whether a phase comes after the outage.
pub fn is_after(phase: &str) -> bool {
    kind(phase).0 == AFTER
}

/// What a panel shows whose longest row ends at `end_ms`, if what happens from 0 to there is of interest: that, and a
/// bit before and after.
pub fn around(end_ms: f64) -> Span {
    let end_ms = end_ms.max(1.0);
    Span {
        start_ms: -end_ms * 0.06,
        ms: end_ms * 1.1,
    }
}

/// Draws panels, one below the other. `gap` says what the gaps are.
pub fn draw(panels: &[Panel], gap: &str) -> String {
    let (mut svg, mut y) = (String::new(), 0.0);
    for panel in panels {
        let drawn = panel.draw(gap);
        add(
            &mut svg,
            format_args!("<g transform=\"translate(0 {y})\">\n{drawn}</g>"),
        );
        y += TITLE + ROW * panel.rows.len() as f64 + SCALE;
    }
    y += LEGEND / 2.0;
    add(
        &mut svg,
        format_args!("<g transform=\"translate(0 {y})\">\n{}</g>", legend(gap)),
    );
    document(WIDTH, y + LEGEND / 2.0, &svg)
}

impl Panel {
    fn draw(&self, gap: &str) -> String {
        let scale = Scale {
            first_ms: self.shown.start_ms,
            last_ms: self.shown.end_ms(),
        };
        let mut out = String::new();
        let title = escape(&self.title);
        add(
            &mut out,
            format_args!(
                "<text x=\"12\" y=\"22\" font-size=\"14\" font-weight=\"bold\">{title}</text>"
            ),
        );
        for (number, row) in self.rows.iter().enumerate() {
            out += &row.draw(&scale, TITLE + ROW * number as f64, gap);
        }
        out += &scale.axis(TITLE + ROW * self.rows.len() as f64);
        out
    }
}

impl Row {
    fn draw(&self, scale: &Scale, y: f64, gap_name: &str) -> String {
        let mut out = String::new();
        let (name, below) = (escape(&self.name), y + PHASE / 2.0 + 4.0);
        add(
            &mut out,
            format_args!("<text x=\"12\" y=\"{below}\">{name}</text>"),
        );
        for (name, span) in &self.phases {
            out += &scale.bar(*span, y, PHASE, kind(name).1, name);
        }
        let Some(gap) = self.gap else {
            return out;
        };
        out += &scale.bar(gap, y + PHASE + 2.0, GAP, CLIENT, gap_name);
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
        out
    }
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

fn legend(gap: &str) -> String {
    let kinds = KINDS.iter().map(|(kind, colour, _)| (*kind, *colour));
    let all = kinds.chain([OTHER, (gap, CLIENT)]);
    let (mut out, mut x) = (String::new(), LEFT);
    for (name, colour) in all {
        let name = escape(name);
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

    fn span(start_ms: f64, ms: f64) -> Span {
        Span { start_ms, ms }
    }

    fn panels() -> Vec<Panel> {
        let row = |name: &str| Row {
            name: name.to_owned(),
            phases: vec![
                ("connect".to_owned(), span(-900.0, 100.0)),
                ("flows".to_owned(), span(-100.0, 95.0)),
                ("dump".to_owned(), span(0.0, 150.0)),
                ("restore".to_owned(), span(150.0, 50.0)),
                ("remove".to_owned(), span(200.0, 4000.0)),
            ],
            gap: Some(span(0.0, 200.0)),
        };
        let panel = |title: &str| Panel {
            title: title.to_owned(),
            shown: around(200.0),
            rows: vec![row("a"), row("b & c")],
        };
        vec![panel("one < two"), panel("two")]
    }

    #[test]
    fn every_row_of_every_panel_is_drawn() {
        let svg = draw(&panels(), "nobody answers");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<title>dump: 150 ms").count(), 4);
        assert_eq!(svg.matches("<title>nobody answers: 200 ms").count(), 4);
        assert_eq!(svg.matches("<title>connect").count(), 0, "out of range");
        assert_eq!(svg.matches("font-weight=\"bold\"").count(), 2);
        assert!(svg.contains("one &lt; two") && svg.contains("b &amp; c"));
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
        let svg = draw(&panels(), "nobody answers");
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

    #[test]
    fn phases_have_the_colour_of_their_time() {
        assert_eq!(kind("flows").0, "before");
        assert_eq!(kind("ship").0, "send");
        assert_eq!(kind("what is new"), OTHER);
        assert!(is_after("remove") && !is_after("cut over"));
    }
}
