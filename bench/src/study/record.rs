//! The result of a run: it is written as JSON, and page and plots are made from it.

use serde::Serialize;

use super::datagrams::{Datagrams, LENGTH, Series, round};
use crate::iperf::{Course, Interval, Moved, rate};
use crate::machine::Machine;

/// Version of the JSON: raised by any change that a reader cannot ignore.
pub(super) const VERSION: u32 = 1;

/// How long a flow takes to reach its rate again after its start or a migration.
const SETTLE: f64 = 1.0;

/// Everything about one run.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) command: String,
    /// When it was written, RFC 3339.
    pub(super) date: String,
    pub(super) machine: Machine,
    /// Which WireGuard the tunnels use.
    pub(super) wireguard: String,
    pub(super) tcp: Tcp,
    /// At full rate, and at a rate that the tunnels can carry.
    pub(super) datagrams: Vec<Datagrams>,
}

/// TCP in both directions at once, through both migrations.
#[derive(Debug, Serialize)]
pub(super) struct Tcp {
    pub(super) moved: Vec<Moved>,
    /// Megabits per second.
    pub(super) to_container: Direction,
    pub(super) from_container: Direction,
}

/// One direction.
#[derive(Debug, Serialize)]
pub(super) struct Direction {
    /// Before, between and after the migrations; `None` if there was no time in between.
    pub(super) means_mbit: Vec<Option<f64>>,
    pub(super) mbit: Series,
    /// As its sender measures it.
    pub(super) rtt_ms: Series,
}

impl Tcp {
    pub(super) fn of(client: &Course, server: &Course, moved: Vec<Moved>) -> Self {
        Self {
            to_container: Direction::of(&client.sent, &client.sent, &moved),
            from_container: Direction::of(&client.received, &server.sent, &moved),
            moved,
        }
    }
}

impl Direction {
    fn of(passed: &[Interval], sent: &[Interval], moved: &[Moved]) -> Self {
        let begins = [0.0].into_iter().chain(moved.iter().map(|moved| moved.end));
        let ends = moved.iter().map(|moved| moved.start).chain([LENGTH]);
        let means = begins
            .zip(ends)
            .map(|(from, to)| rate(passed, from + SETTLE, to));
        Self {
            means_mbit: means.map(|bits| Some(round(bits? / 1e6))).collect(),
            mbit: passed
                .iter()
                .map(|i| (round(i.end), round(i.bytes as f64 * 8e-6 / i.seconds())))
                .collect(),
            rtt_ms: sent
                .iter()
                .filter_map(|i| Some((round(i.end), round(i.rtt_ms?))))
                .collect(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::study::datagrams::tests::example as datagrams;

    /// A run with a migration at 20 s.
    pub(in super::super) fn example() -> Record {
        let interval = |start: f64, bytes| Interval {
            start,
            end: start + 1.0,
            bytes,
            rtt_ms: Some(2.5),
            ..Interval::default()
        };
        let flow: Vec<_> = (0..80)
            .map(|n| interval(f64::from(n), if n < 20 { 1_000_000 } else { 500_000 }))
            .collect();
        let course = || Course {
            start_unix_ms: 0.0,
            sent: flow.clone(),
            received: flow.clone(),
            reordered: 0,
        };
        let moved = vec![Moved {
            start: 20.0,
            end: 22.0,
            frozen_from: 21.0,
            frozen_to: 21.25,
        }];
        Record {
            version: VERSION,
            command: "scripts/study".to_owned(),
            date: "2026-01-02T03:04:05Z".to_owned(),
            machine: Machine::look(),
            wireguard: "userspace".to_owned(),
            tcp: Tcp::of(&course(), &course(), moved),
            datagrams: vec![datagrams(None), datagrams(Some(100))],
        }
    }

    #[test]
    fn means_are_those_between_migrations() {
        let tcp = example().tcp;
        assert_eq!(tcp.to_container.means_mbit, [Some(8.0), Some(4.0)]);
        assert_eq!(tcp.from_container.mbit[19], (20.0, 8.0));
        assert_eq!(tcp.from_container.rtt_ms[0], (1.0, 2.5));
    }

    #[test]
    fn the_json_has_the_series() {
        let json = serde_json::to_value(example()).unwrap();
        assert_eq!(json["tcp"]["to_container"]["mbit"][0][1], 8.0);
        assert_eq!(json["datagrams"][1]["rate"], 100);
        assert_eq!(json["datagrams"][0]["stretches"][1]["lost"], 50);
    }
}
