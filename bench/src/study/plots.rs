//! The plots.

use super::datagrams::{Datagrams, LENGTH, Series};
use super::record::Record;
use crate::chart::{BLUE, Chart, Line, ORANGE, draw as charts};
use crate::iperf::Moved;

/// Each plot with its name.
pub(super) fn draw(record: &Record) -> [(&'static str, String); 5] {
    let tcp = &record.tcp;
    let both = |title: &str, value: fn(&super::record::Direction) -> &Series| {
        let lines = vec![
            line("to the container", BLUE, value(&tcp.to_container)),
            line("from the container", ORANGE, value(&tcp.from_container)),
        ];
        charts(&[chart(title.to_owned(), &tcp.moved, lines)])
    };
    let each = |what: &str, lines: &dyn Fn(&Datagrams) -> Vec<Line>| {
        let panels = record.datagrams.iter().map(|datagrams| {
            let rate = super::page::rate(datagrams);
            chart(
                format!("{what}, {rate}"),
                &datagrams.moved,
                lines(datagrams),
            )
        });
        charts(&panels.collect::<Vec<_>>())
    };
    [
        ("throughput", both("TCP both ways: Mbit/s", |d| &d.mbit)),
        ("rtt", both("TCP both ways: round trip, ms", |d| &d.rtt_ms)),
        (
            "packets",
            each("Datagrams a second", &|d| {
                vec![
                    line("sent", BLUE, &d.sent),
                    line("arrived", ORANGE, &d.arrived),
                ]
            }),
        ),
        (
            "loss",
            each("Datagrams lost, %", &|d| {
                vec![line("lost", ORANGE, &d.loss_percent)]
            }),
        ),
        (
            "jitter",
            each("Jitter of datagrams, ms", &|d| {
                vec![line("jitter", BLUE, &d.jitter_ms)]
            }),
        ),
    ]
}

fn chart(title: String, moved: &[Moved], lines: Vec<Line>) -> Chart {
    Chart {
        title,
        seconds: LENGTH,
        lines,
        moved: moved.to_vec(),
    }
}

fn line(name: &str, colour: &'static str, points: &Series) -> Line {
    Line {
        name: name.to_owned(),
        colour,
        points: points.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::example;
    use super::*;

    #[test]
    fn every_plot_has_its_lines() {
        let lines: Vec<_> = draw(&example())
            .iter()
            .map(|(what, svg)| (*what, svg.matches("<polyline").count()))
            .collect();
        let expected = [
            ("throughput", 2),
            ("rtt", 2),
            ("packets", 4),
            ("loss", 2),
            ("jitter", 2),
        ];
        assert_eq!(lines, expected);
    }
}
