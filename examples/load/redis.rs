//! `load redis`: one connection to a Redis server, on which a key is incremented.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use workloads::probe::Wait;
use workloads::process::{Stop, TICK};

use crate::{Common, LongestWait, millis};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,

    /// Milliseconds between two commands, which do not wait for each other's answers.
    #[arg(long, default_value_t = 10)]
    interval_ms: u64,

    /// The key to increment.
    #[arg(long, default_value = "load")]
    key: String,
}

/// How long an answer may still take when the time is up.
const DRAIN: Duration = Duration::from_secs(20);

#[derive(Default, Serialize)]
struct Report {
    ok: bool,
    target: String,
    answers: u64,
    /// The key's first and last value, which differ by the number of answers.
    first: Option<u64>,
    last: Option<u64>,
    /// The longest time between two answers.
    stall_ms: f64,
    /// The longest time that a command waited for an answer.
    longest_wait: Option<LongestWait>,
    error: Option<String>,
}

pub(crate) fn run(options: &Options, stop: &Stop) -> Result<bool> {
    let target = options.common.address;
    let stream = TcpStream::connect(target).with_context(|| format!("connect to {target}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TICK))?;

    let mut report = Report {
        target: target.to_string(),
        ..Report::default()
    };
    let (sent, sendings) = mpsc::channel();
    let result = thread::scope(|scope| {
        // A failed write need not be reported: the same fault ends the reading side.
        scope.spawn(|| send(options, stop, &stream, sent));
        let reading = scope.spawn(|| {
            let result = read(stop, &stream, sendings, &mut report);
            stop.set();
            // Unblocks the sender if the server no longer reads.
            let _ = stream.shutdown(Shutdown::Both);
            result
        });
        stop.wait(options.common.duration());
        reading.join().expect("no thread panics")
    });
    report.error = result.err().map(|error| format!("{error:#}"));
    report.ok = report.error.is_none() && report.answers > 0;
    options.common.report(&report, print)?;
    Ok(report.ok)
}

/// Sends commands until the end, at least one, and tells the reader when each was sent.
fn send(
    options: &Options,
    stop: &Stop,
    mut stream: &TcpStream,
    sent: Sender<Instant>,
) -> Result<()> {
    let command = format!("INCR {}\r\n", options.key);
    loop {
        sent.send(Instant::now())?;
        stream.write_all(command.as_bytes())?;
        thread::sleep(Duration::from_millis(options.interval_ms));
        if stop.is_set() {
            break;
        }
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

/// Reads answers until the server closes the connection.
fn read(
    stop: &Stop,
    stream: &TcpStream,
    sendings: Receiver<Instant>,
    report: &mut Report,
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut last = Instant::now();
    let (mut stall, mut longest) = (Duration::ZERO, None);
    let mut stopped = None;
    let mut line = String::new();
    loop {
        let read = stream.read_line(&mut line);
        stall = stall.max(last.elapsed());
        report.stall_ms = millis(stall);
        match read {
            Ok(0) if stop.is_set() => break,
            Ok(0) => bail!("closed by the server after {} answers", report.answers),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let since = stop
                    .is_set()
                    .then(|| *stopped.get_or_insert_with(Instant::now));
                ensure!(
                    since.is_none_or(|since| since.elapsed() < DRAIN),
                    "silent after {} answers",
                    report.answers
                );
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        let value: u64 = line
            .trim_end()
            .strip_prefix(':')
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("{line:?} is no answer to INCR"))?;
        line.clear();
        let due = report.last.map_or(value, |last| last + 1);
        ensure!(value == due, "{value} came where {due} was due");
        let trip = sendings.recv().context("an answer too many")?.elapsed();
        let wait = Wait::that_took(trip.min(last.elapsed()));
        longest = Wait::longer(longest, Some(wait));
        last = Instant::now();
        report.first.get_or_insert(value);
        report.last = Some(value);
        report.answers += 1;
        report.longest_wait = longest.map(LongestWait::from);
    }
    let unanswered = sendings.try_iter().count();
    ensure!(unanswered == 0, "{unanswered} commands have no answer");
    Ok(())
}

fn print(report: &Report) {
    println!(
        "{} answers, {} to {}, longest stall {} ms",
        report.answers,
        report.first.unwrap_or_default(),
        report.last.unwrap_or_default(),
        report.stall_ms
    );
    match &report.error {
        None => println!("ok"),
        Some(error) => println!("BROKEN {error}"),
    }
}
