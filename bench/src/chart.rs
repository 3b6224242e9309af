//! Plots over time, one below the other.

use crate::iperf::Moved;
use plot::svg::{LETTER, add, document, escape, step};

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = WIDTH - 20.0;
/// A plot's top edge, below its title, and its bottom edge, above its scale.
const TOP: f64 = 34.0;
const BOTTOM: f64 = 194.0;
const HEIGHT: f64 = 250.0;

/// A plot.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) seconds: f64,
    pub(crate) lines: Vec<Line>,
    pub(crate) moved: Vec<Moved>,
}

/// A line in it.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) colour: &'static str,
    /// Times in seconds, and values. A value that is not a number leaves a gap in the line.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Colours that go together.
pub(crate) const BLUE: &str = "#3c6fb4";
pub(crate) const ORANGE: &str = "#e08a1e";

/// Draws them.
pub(crate) fn draw(charts: &[Chart]) -> String {
    let mut parts = String::new();
    for (number, chart) in charts.iter().enumerate() {
        let y = HEIGHT * number as f64;
        add(
            &mut parts,
            format_args!("<g transform=\"translate(0 {y})\">\n{}</g>", chart.draw()),
        );
    }
    document(WIDTH, HEIGHT * charts.len() as f64, &parts)
}

impl Chart {
    fn draw(&self) -> String {
        let values = self.lines.iter().flat_map(|line| &line.points);
        let most = values.map(|(_, value)| *value).fold(0.0, f64::max);
        let most = if most > 0.0 { most * 1.05 } else { 1.0 };
        let x = |seconds: f64| LEFT + (seconds / self.seconds).clamp(0.0, 1.0) * (RIGHT - LEFT);
        let y = |value: f64| BOTTOM - (value / most).clamp(0.0, 1.0) * (BOTTOM - TOP);

        let mut out = String::new();
        let title = escape(&self.title);
        add(
            &mut out,
            format_args!(
                "<text x=\"12\" y=\"22\" font-size=\"14\" font-weight=\"bold\">{title}</text>"
            ),
        );
        for moved in &self.moved {
            for (from, to, fill, name) in [
                (moved.start, moved.end, "#eceef1", "migration"),
                (moved.frozen_from, moved.frozen_to, "#f2b8bc", "frozen"),
            ] {
                let (from_x, width, ms) = (x(from), x(to) - x(from), (to - from) * 1e3);
                let height = BOTTOM - TOP;
                add(
                    &mut out,
                    format_args!(
                        "<rect x=\"{from_x:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\" \
                         fill=\"{fill}\"><title>{name}: {ms:.0} ms</title></rect>"
                    ),
                );
            }
        }
        let each = step(most);
        let mut value = 0.0;
        while value <= most {
            let (at, below) = (y(value), y(value) + 4.0);
            let (before, label) = (LEFT - 6.0, number(value, each));
            add(
                &mut out,
                format_args!(
                    "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{RIGHT}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                     <text x=\"{before}\" y=\"{below:.1}\" text-anchor=\"end\" fill=\"#555\">{label}</text>"
                ),
            );
            value += each;
        }
        let each = step(self.seconds);
        let mut seconds = 0.0;
        while seconds <= self.seconds {
            let (at, below, label) = (x(seconds), BOTTOM + 15.0, number(seconds, each));
            add(
                &mut out,
                format_args!(
                    "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\" fill=\"#555\">{label} s</text>"
                ),
            );
            seconds += each;
        }
        for line in &self.lines {
            for piece in line.points.split(|(_, value)| value.is_nan()) {
                let places: Vec<String> = piece
                    .iter()
                    .map(|(seconds, value)| format!("{:.1},{:.1}", x(*seconds), y(*value)))
                    .collect();
                if !places.is_empty() {
                    add(
                        &mut out,
                        format_args!(
                            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.3\"/>",
                            places.join(" "),
                            line.colour
                        ),
                    );
                }
            }
        }
        out += &self.legend();
        out
    }

    fn legend(&self) -> String {
        let mut out = String::new();
        let mut x = LEFT;
        let lines = self
            .lines
            .iter()
            .map(|line| (line.name.as_str(), line.colour));
        let bands = [("migration", "#dcdfe4"), ("frozen", "#f2b8bc")];
        let bands = bands.into_iter().filter(|_| !self.moved.is_empty());
        let y = BOTTOM + 32.0;
        for (name, colour) in lines.chain(bands) {
            let (box_y, after, name) = (y - 9.0, x + 16.0, escape(name));
            add(
                &mut out,
                format_args!(
                    "<rect x=\"{x:.1}\" y=\"{box_y}\" width=\"11\" height=\"11\" fill=\"{colour}\"/>\
                     <text x=\"{after:.1}\" y=\"{y}\">{name}</text>"
                ),
            );
            x = after + name.len() as f64 * LETTER + 18.0;
        }
        out
    }
}

/// With as many digits as the step between two numbers requires.
fn number(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).max(0.0) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lie_within_the_plot_and_have_holes() {
        let chart = Chart {
            title: "a < b".to_owned(),
            seconds: 10.0,
            lines: vec![Line {
                name: "rate".to_owned(),
                colour: BLUE,
                points: vec![
                    (0.0, 0.0),
                    (5.0, 2.0),
                    (6.0, f64::NAN),
                    (7.0, 1.0),
                    (10.0, 2.0),
                ],
            }],
            moved: vec![Moved {
                start: 4.0,
                end: 6.0,
                frozen_from: 5.0,
                frozen_to: 5.5,
            }],
        };
        let svg = draw(&[chart]);
        assert!(svg.contains("a &lt; b"));
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("points=\"70.0,194.0 525.0,41.6\""), "{svg}");
        assert!(svg.contains("<title>frozen: 500 ms</title>"));
    }

    #[test]
    fn an_empty_plot_can_be_drawn() {
        let chart = Chart {
            title: String::new(),
            seconds: 1.0,
            lines: Vec::new(),
            moved: Vec::new(),
        };
        assert!(draw(&[chart]).ends_with("</svg>\n"));
    }

    #[test]
    fn numbers_have_the_digits_they_need() {
        assert_eq!(number(0.5, 0.5), "0.5");
        assert_eq!(number(20_000.0, 5000.0), "20000");
    }
}
