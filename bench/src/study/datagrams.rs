//! What happened to the datagrams, part by part.

use serde::Serialize;

use crate::iperf::{Course, Interval, Moved};

/// How long a flow lasts, in seconds.
pub(super) const LENGTH: f64 = 80.0;

/// The shortest interval that iperf3 has.
pub(super) const INTERVAL: f64 = 0.1;

/// How long after a migration its effects may still show.
const AFTER: f64 = 1.0;

/// Values over time, in seconds since the flow's start.
pub(super) type Series = Vec<(f64, f64)>;

/// A flow of datagrams to the container, through both migrations.
#[derive(Debug, Serialize)]
pub(super) struct Datagrams {
    /// How many per second the client was told to send; `None` for as many as it could.
    pub(super) rate: Option<u64>,
    pub(super) moved: Vec<Moved>,
    pub(super) stretches: Vec<Stretch>,
    /// The same over the same paths without a migration, by the server's place in the chain of
    /// hosts.
    pub(super) controls: Vec<Control>,
    /// How many arrived later than one that was sent after them.
    pub(super) reordered: u64,
    /// Per second.
    pub(super) sent: Series,
    /// Per second.
    pub(super) arrived: Series,
    pub(super) loss_percent: Series,
    pub(super) jitter_ms: Series,
}

/// A part of the flow.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Stretch {
    /// How many migrations had ended before it.
    pub(super) migrations: usize,
    /// Whether it is a migration itself.
    pub(super) moving: bool,
    pub(super) seconds: f64,
    pub(super) sent: u64,
    pub(super) lost: i64,
    /// The longest time in which none arrived, as the server saw it.
    pub(super) gap_ms: f64,
    pub(super) jitter_ms: f64,
}

/// A flow that did not move.
#[derive(Debug, Serialize)]
pub(super) struct Control {
    pub(super) place: usize,
    pub(super) seconds: f64,
    pub(super) sent: u64,
    pub(super) lost: i64,
    pub(super) reordered: u64,
    pub(super) gap_ms: f64,
    pub(super) jitter_ms: f64,
}

impl Datagrams {
    pub(super) fn of(
        rate: Option<u64>,
        client: &Course,
        server: &Course,
        moved: Vec<Moved>,
        controls: Vec<Control>,
    ) -> Self {
        let seen = &server.received;
        let series = |intervals: &[Interval], value: &dyn Fn(&Interval) -> Option<f64>| {
            let points = intervals.iter().filter(|i| i.end <= LENGTH + INTERVAL);
            points
                .filter_map(|i| Some((round(i.end), round(value(i)?))))
                .collect()
        };
        Self {
            rate,
            stretches: stretches(seen, &moved),
            moved,
            controls,
            reordered: server.reordered,
            sent: series(&client.sent, &|i| Some(i.packets as f64 / i.seconds())),
            arrived: series(seen, &|i| Some(i.arrived() as f64 / i.seconds())),
            loss_percent: series(seen, &|i| {
                (i.packets > 0).then(|| percent(i.lost_packets, i.packets))
            }),
            jitter_ms: series(seen, &|i| i.jitter_ms),
        }
    }

    /// How many per second were sent to the server at this place without a migration, and how many
    /// arrived.
    pub(super) fn control_rate(&self, place: usize) -> (f64, f64) {
        let control = &self.controls[place];
        let lost = control.lost as f64 / control.seconds;
        (control.sent_rate(), control.sent_rate() - lost)
    }

    /// All parts together.
    pub(super) fn whole(&self) -> (u64, i64) {
        let stretches = self.stretches.iter();
        stretches.fold((0, 0), |(sent, lost), stretch| {
            (sent + stretch.sent, lost + stretch.lost)
        })
    }
}

impl Stretch {
    pub(super) fn loss_percent(&self) -> f64 {
        percent(self.lost, self.sent)
    }
}

impl Control {
    pub(super) fn of(place: usize, client: &Course, server: &Course) -> Self {
        let seen = &server.received;
        let sent = client.sent.iter().map(|interval| interval.packets).sum();
        let arrived: i64 = seen.iter().map(Interval::arrived).sum();
        Self {
            place,
            seconds: client.sent.iter().map(Interval::seconds).sum(),
            sent,
            // The server does not know of those lost at the very end.
            lost: sent as i64 - arrived,
            reordered: server.reordered,
            gap_ms: gap_ms(seen),
            jitter_ms: jitter_ms(seen),
        }
    }

    pub(super) fn sent_rate(&self) -> f64 {
        self.sent as f64 / self.seconds
    }

    pub(super) fn loss_percent(&self) -> f64 {
        percent(self.lost, self.sent)
    }
}

/// Divides a flow into the parts before, during, between and after the migrations.
fn stretches(seen: &[Interval], moved: &[Moved]) -> Vec<Stretch> {
    let mut cuts = vec![0.0];
    cuts.extend(
        moved
            .iter()
            .flat_map(|moved| [moved.start, moved.end + AFTER]),
    );
    cuts.push(f64::INFINITY);
    cuts.windows(2)
        .enumerate()
        .map(|(number, cut)| {
            let within = |interval: &&Interval| interval.end > cut[0] && interval.end <= cut[1];
            let part: Vec<Interval> = seen.iter().filter(within).cloned().collect();
            Stretch {
                migrations: number / 2,
                moving: number % 2 == 1,
                seconds: round(part.iter().map(Interval::seconds).sum()),
                sent: part.iter().map(|interval| interval.packets).sum(),
                lost: part.iter().map(|interval| interval.lost_packets).sum(),
                gap_ms: gap_ms(&part),
                jitter_ms: jitter_ms(&part),
            }
        })
        .collect()
}

/// The longest time in which nothing arrived. An interval is longer than it should be if the server
/// was frozen in it.
fn gap_ms(seen: &[Interval]) -> f64 {
    let (mut longest, mut now) = (0.0_f64, 0.0);
    for interval in seen {
        if interval.arrived() <= 0 {
            now += interval.seconds();
        } else {
            now += (interval.seconds() - INTERVAL).max(0.0);
            longest = longest.max(now);
            now = 0.0;
        }
    }
    (longest.max(now) * 1e3).round()
}

/// The mean.
fn jitter_ms(seen: &[Interval]) -> f64 {
    let values: Vec<f64> = seen
        .iter()
        .filter_map(|interval| interval.jitter_ms)
        .collect();
    round(values.iter().sum::<f64>() / values.len().max(1) as f64)
}

pub(super) fn percent(lost: i64, sent: u64) -> f64 {
    lost as f64 * 100.0 / sent.max(1) as f64
}

/// To three digits: more would be noise. Also removes the sign that an empty sum has.
pub(super) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3 + 0.0
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn interval(start: f64, end: f64, packets: u64, lost_packets: i64) -> Interval {
        Interval {
            start,
            end,
            packets,
            lost_packets,
            jitter_ms: Some(0.5),
            ..Interval::default()
        }
    }

    fn course(sent: Vec<Interval>, received: Vec<Interval>) -> Course {
        Course {
            start_unix_ms: 0.0,
            sent,
            received,
            reordered: 3,
        }
    }

    /// A flow of five seconds in five intervals, one migration in the second.
    pub(in super::super) fn example(rate: Option<u64>) -> Datagrams {
        let sent = (0..5)
            .map(|n| interval(f64::from(n), f64::from(n + 1), 100, 0))
            .collect();
        let received = vec![
            interval(0.0, 1.0, 100, 1),
            interval(1.0, 2.0, 100, 50),
            interval(2.0, 3.0, 100, 0),
            interval(3.0, 4.0, 100, 2),
            interval(4.0, 5.0, 90, 2),
        ];
        let moved = vec![Moved {
            start: 1.0,
            end: 2.0,
            frozen_from: 1.2,
            frozen_to: 1.4,
        }];
        let (client, server) = (course(sent, Vec::new()), course(Vec::new(), received));
        let controls = (0..3).map(|n| Control::of(n, &client, &server)).collect();
        Datagrams::of(rate, &client, &server, moved, controls)
    }

    #[test]
    fn a_flow_is_cut_at_its_migrations() {
        let flow = example(None);
        let short = |s: &Stretch| (s.migrations, s.moving, s.sent, s.lost);
        let stretches: Vec<_> = flow.stretches.iter().map(short).collect();
        assert_eq!(
            stretches,
            [(0, false, 100, 1), (0, true, 200, 50), (1, false, 190, 4)]
        );
        assert_eq!(flow.whole(), (490, 55));
        assert_eq!(flow.loss_percent[1], (2.0, 50.0));
        assert_eq!(flow.arrived[1], (2.0, 50.0));
    }

    #[test]
    fn a_control_counts_what_its_server_never_heard_of() {
        let control = &example(None).controls[0];
        assert_eq!((control.sent, control.lost), (500, 65));
        assert_eq!(control.loss_percent(), 13.0);
    }

    #[test]
    fn a_gap_is_silence_or_an_interval_that_took_too_long() {
        let seen = [
            interval(0.0, 0.1, 5, 0),
            interval(0.1, 0.2, 0, 0),
            interval(0.2, 0.3, 2, 2),
            interval(0.3, 0.6, 5, 0),
            interval(0.6, 0.7, 5, 0),
        ];
        assert_eq!(gap_ms(&seen), 400.0);
        assert_eq!(gap_ms(&seen[..1]), 0.0);
    }
}
