//! iperf3: a running client, and what each end says about its flow.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Host;
use serde::{Deserialize, Deserializer};

use crate::job::Job;
use crate::sample::Run;
use crate::stage::bash;

/// The port that the server listens on by default.
pub(crate) const PORT: u16 = 5201;

/// A time limit for what both ends do after a flow has ended.
const SOON: Duration = Duration::from_secs(30);

/// How much both ends may differ about when a flow began: one may leave out fractions of a second.
const SAME_MS: f64 = 2000.0;

/// A client with its flow.
pub(crate) struct Iperf {
    job: Job,
    interval: f64,
}

/// What one end saw of a flow.
pub(crate) struct Course {
    /// When it began, by the machine's clock.
    pub(crate) start_unix_ms: f64,
    /// What this end sent.
    pub(crate) sent: Vec<Interval>,
    /// What it received.
    pub(crate) received: Vec<Interval>,
    /// How many datagrams came later than one that was sent after them.
    pub(crate) reordered: u64,
}

/// A part of a flow, in seconds since its start; all its streams together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Interval {
    pub(crate) start: f64,
    pub(crate) end: f64,
    pub(crate) bytes: u64,
    /// For datagrams: how many were sent, or should have arrived.
    #[serde(default)]
    pub(crate) packets: u64,
    /// Datagrams that should have arrived and did not; negative if late ones arrived after all.
    #[serde(default, deserialize_with = "signed")]
    pub(crate) lost_packets: i64,
    #[serde(default)]
    pub(crate) jitter_ms: Option<f64>,
    /// For a TCP sender: the kernel's smoothed round-trip time, averaged over all streams.
    #[serde(skip)]
    pub(crate) rtt_ms: Option<f64>,
}

/// When a migration took place, in seconds since the start of a flow.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Moved {
    pub(crate) start: f64,
    pub(crate) end: f64,
    /// Between these two times nobody could answer.
    pub(crate) frozen_from: f64,
    pub(crate) frozen_to: f64,
}

impl Iperf {
    /// Starts a client that reports at this interval, in seconds.
    pub(crate) fn start(
        host: &Host,
        server: &str,
        port: u16,
        interval: f64,
        arguments: &[&str],
    ) -> Result<Self> {
        let (port, every) = (port.to_string(), interval.to_string());
        // Ports are published for IPv4, but a name has both kinds of addresses.
        let mut argv = vec![
            "iperf3",
            "--json",
            "--version4",
            "--connect-timeout",
            "5000",
        ];
        argv.extend(["--client", server, "--port", &port, "--interval", &every]);
        argv.extend(arguments);
        Ok(Self {
            job: Job::start(host, &argv)?,
            interval,
        })
    }

    /// An error if its flow has ended.
    pub(crate) fn goes_on(&mut self) -> Result<()> {
        let ended = self.job.ended()?;
        ensure!(
            !ended,
            "iperf3 has ended: {}",
            last_words(&self.job.stdout()?)
        );
        Ok(())
    }

    /// Ends it while its flow still runs.
    pub(crate) fn stop(mut self) -> Result<Course> {
        self.goes_on()?;
        self.job.interrupt()?;
        let said = self.job.end(SOON)?;
        course(&said, self.interval)
            .with_context(|| format!("iperf3 ended: {}", self.job.said_wrong()))
    }

    /// Waits until it ends.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<Course> {
        let said = self.job.end(limit + SOON)?;
        course(&said, self.interval)
            .with_context(|| format!("iperf3 ended: {}", self.job.said_wrong()))
    }
}

/// What the server in a container said about the flow that its client saw like this, if it was told
/// to print JSON.
pub(crate) fn of_server(
    host: &Host,
    container: &str,
    interval: f64,
    client: &Course,
) -> Result<Course> {
    let deadline = Instant::now() + SOON;
    loop {
        // It does so after its client has ended. Until then, the last output is about an earlier
        // flow, or there is none.
        let log = bash(host, &format!("podman logs {container}"))?;
        let last = course(last_object(&log), interval).and_then(|last| {
            let same = last.start_unix_ms > client.start_unix_ms - SAME_MS;
            ensure!(same, "it says nothing of this flow");
            Ok(last)
        });
        if last.is_ok() || Instant::now() > deadline {
            return last.with_context(|| format!("the server {container} on {}", host.name()));
        }
        sleep(Duration::from_millis(100));
    }
}

impl Moved {
    /// Takes the times from what a migration reports.
    pub(crate) fn of(run: &Run, flow_start_unix_ms: f64) -> Result<Self> {
        let phase = |name: &str| {
            let found = run.phases.iter().find(|phase| phase.name == name);
            found.with_context(|| format!("there was no phase {name:?}"))
        };
        let since = |ms: f64| (run.start_unix_ms + ms - flow_start_unix_ms) / 1e3;
        Ok(Self {
            start: since(0.0),
            end: since(run.total_ms),
            frozen_from: since(phase("freeze")?.span.start_ms),
            frozen_to: since(phase("cut over")?.span.end_ms()),
        })
    }
}

/// Bits per second from one moment to another; `None` if there is no whole interval between them.
pub(crate) fn rate(intervals: &[Interval], from: f64, to: f64) -> Option<f64> {
    let within = intervals.iter().filter(|i| i.start >= from && i.end <= to);
    let (bytes, seconds) = within.fold((0, 0.0), |(bytes, seconds), interval| {
        (bytes + interval.bytes, seconds + interval.seconds())
    });
    (seconds > 0.0).then(|| bytes as f64 * 8.0 / seconds)
}

impl Interval {
    pub(crate) fn seconds(&self) -> f64 {
        self.end - self.start
    }

    /// How many datagrams arrived.
    pub(crate) fn arrived(&self) -> i64 {
        self.packets as i64 - self.lost_packets
    }
}

/// The part of iperf3's JSON that is read.
#[derive(Deserialize)]
struct Output {
    start: Start,
    #[serde(default)]
    intervals: Vec<Sums>,
    #[serde(default)]
    end: End,
    error: Option<String>,
}

#[derive(Default, Deserialize)]
struct End {
    #[serde(default)]
    streams: Vec<EndStream>,
}

#[derive(Deserialize)]
struct EndStream {
    udp: Option<EndDatagrams>,
}

#[derive(Deserialize)]
struct EndDatagrams {
    #[serde(default)]
    out_of_order: u64,
}

#[derive(Deserialize)]
struct Start {
    timestamp: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Timestamp {
    timesecs: f64,
    /// Older versions only have seconds.
    timemillisecs: Option<f64>,
}

#[derive(Deserialize)]
struct Sums {
    streams: Vec<Stream>,
    sum: Sum,
    sum_bidir_reverse: Option<Sum>,
}

#[derive(Deserialize)]
struct Sum {
    #[serde(flatten)]
    interval: Interval,
    sender: bool,
}

#[derive(Deserialize)]
struct Stream {
    /// In microseconds.
    rtt: Option<f64>,
}

/// A number that may be negative: older versions then print it as if it were unsigned.
fn signed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let wrapped = || number.as_u64().map(u64::cast_signed);
    let read = number.as_i64().or_else(wrapped);
    read.ok_or_else(|| serde::de::Error::custom("not a whole number"))
}

/// Reads what iperf3 printed. Being interrupted counts as a proper end.
fn course(text: &str, nominal: f64) -> Result<Course> {
    let output: Output = serde_json::from_str(text)
        .with_context(|| format!("iperf3 said {:?}", last_words(text)))?;
    if let Some(error) = output.error {
        ensure!(error.starts_with("interrupt"), "iperf3: {error}");
    }
    let timestamp = output.start.timestamp.context("the flow did not begin")?;
    let datagrams = output.end.streams.into_iter().filter_map(|s| s.udp);
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    for sums in output.intervals {
        let trips: Vec<f64> = sums.streams.iter().filter_map(|s| s.rtt).collect();
        let rtt_ms =
            (!trips.is_empty()).then(|| trips.iter().sum::<f64>() / trips.len() as f64 / 1e3);
        for sum in [Some(sums.sum), sums.sum_bidir_reverse]
            .into_iter()
            .flatten()
        {
            if sum.sender {
                let interval = sum.interval;
                sent.push(Interval { rtt_ms, ..interval });
            } else {
                received.push(sum.interval);
            }
        }
    }
    Ok(Course {
        start_unix_ms: timestamp.timemillisecs.unwrap_or(timestamp.timesecs * 1e3),
        sent: even(sent, nominal),
        received: even(received, nominal),
        reordered: datagrams.map(|datagrams| datagrams.out_of_order).sum(),
    })
}

/// Joins intervals that are too short to be useful. After an outage a server reports all the
/// intervals that it has missed at once.
fn even(intervals: Vec<Interval>, nominal: f64) -> Vec<Interval> {
    let mut even: Vec<Interval> = Vec::new();
    for interval in intervals {
        match even.last_mut() {
            Some(last) if interval.seconds() < nominal / 2.0 => {
                last.end = interval.end;
                last.bytes += interval.bytes;
                last.packets += interval.packets;
                last.lost_packets += interval.lost_packets;
                last.jitter_ms = interval.jitter_ms.or(last.jitter_ms);
                last.rtt_ms = interval.rtt_ms.or(last.rtt_ms);
            }
            _ => even.push(interval),
        }
    }
    even
}

/// The last of several JSON objects, each of which begins and ends on a line of its own.
fn last_object(text: &str) -> &str {
    let start = text.rfind("\n{\n").map_or(0, |position| position + 1);
    &text[start..]
}

fn last_words(text: &str) -> &str {
    let text = text.trim_end();
    let start = text.char_indices().rev().nth(300).map_or(0, |(at, _)| at);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(start: f64, end: f64, bytes: u64) -> Interval {
        Interval {
            start,
            end,
            bytes,
            ..Interval::default()
        }
    }

    #[test]
    fn both_directions_are_read() {
        let text = r#"{
            "start": {"timestamp": {"timesecs": 5, "timemillisecs": 5250}},
            "intervals": [{
                "streams": [{"sender": true, "rtt": 1000}, {"sender": true, "rtt": 3000}, {"sender": false}],
                "sum": {"start": 0, "end": 0.5, "seconds": 0.5, "bytes": 100, "sender": true},
                "sum_bidir_reverse": {"start": 0, "end": 0.5, "bytes": 70, "sender": false}
            }],
            "end": {},
            "error": "interrupt - the client has terminated"
        }"#;
        let course = course(text, 0.5).unwrap();
        assert_eq!(course.start_unix_ms, 5250.0);
        let sent = Interval {
            rtt_ms: Some(2.0),
            ..interval(0.0, 0.5, 100)
        };
        assert_eq!(course.sent, [sent]);
        assert_eq!(course.received, [interval(0.0, 0.5, 70)]);
    }

    #[test]
    fn datagrams_are_counted() {
        let text = r#"{
            "start": {"timestamp": {"timesecs": 5}},
            "intervals": [{
                "streams": [{}],
                "sum": {"start": 0, "end": 1, "bytes": 160, "jitter_ms": 0.5,
                        "lost_packets": -2, "packets": 10, "sender": false}
            }, {
                "streams": [{}],
                "sum": {"start": 1, "end": 2, "bytes": 160, "jitter_ms": 0.5,
                        "lost_packets": 18446744073709551614, "packets": 10, "sender": false}
            }],
            "end": {"streams": [{"udp": {"out_of_order": 2}}]}
        }"#;
        let course = course(text, 1.0).unwrap();
        assert_eq!(course.start_unix_ms, 5000.0);
        assert_eq!(course.received[0].arrived(), 12);
        assert_eq!(course.received[1].arrived(), 12);
        assert_eq!(course.reordered, 2);
        assert_eq!(course.received[0].jitter_ms, Some(0.5));
    }

    #[test]
    fn a_failure_is_not_taken_for_a_flow() {
        let failed = r#"{"start": {}, "intervals": [], "error": "unable to connect"}"#;
        assert!(course(failed, 1.0).is_err());
        assert!(course("", 1.0).is_err());
    }

    #[test]
    fn a_rate_is_that_of_whole_intervals() {
        let flow = [
            interval(0.0, 1.0, 9),
            interval(1.0, 2.0, 100),
            interval(2.0, 4.0, 200),
            interval(4.0, 5.0, 9),
        ];
        assert_eq!(rate(&flow, 1.0, 4.5), Some(800.0));
        assert_eq!(rate(&flow, 1.1, 1.9), None);
    }

    #[test]
    fn short_intervals_are_joined() {
        let flow = vec![
            interval(0.0, 0.9, 10),
            interval(0.9, 0.9, 1),
            interval(0.9, 1.0, 2),
            interval(1.0, 2.0, 3),
        ];
        assert_eq!(
            even(flow, 1.0),
            [interval(0.0, 1.0, 13), interval(1.0, 2.0, 3)]
        );
    }

    #[test]
    fn the_last_object_is_found() {
        assert_eq!(last_object("{\n1\n}\n{\n2\n}\n"), "{\n2\n}\n");
        assert_eq!(last_object("{\n1\n}\n"), "{\n1\n}\n");
    }
}
