//! `load count`: one connection to a counter, for people to watch.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use workloads::counter::Answer;
use workloads::process::{Stop, TICK};

use crate::{Common, identity, millis};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,

    /// Milliseconds between an answer and the next line.
    #[arg(long, default_value_t = 20)]
    interval_ms: u64,

    /// Print the current state to stderr: one line that is rewritten on a terminal, otherwise a
    /// line per second.
    #[arg(long)]
    live: bool,
}

/// How long an answer may still take when the time is up.
const DRAIN: Duration = Duration::from_secs(20);

#[derive(Default, Serialize)]
struct Report {
    ok: bool,
    target: String,
    /// Our port of the one connection, as it was opened and as the socket reports it at the end.
    local_port: u16,
    local_port_at_end: u16,
    /// The program's identity, unchanged if `ok`.
    server: Option<String>,
    /// Answers on this connection, each numbered by the server.
    answers: u64,
    /// The program's count at the first and at the last answer.
    first: Option<u64>,
    last: Option<u64>,
    /// The longest time between two answers.
    stall_ms: f64,
    error: Option<String>,
}

pub(crate) fn run(options: &Options, stop: &Stop) -> Result<bool> {
    let target = options.common.address;
    let stream = TcpStream::connect(target).with_context(|| format!("connect to {target}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TICK))?;

    let mut report = Report {
        target: target.to_string(),
        local_port: stream.local_addr()?.port(),
        ..Report::default()
    };
    let result = thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let result = count(options, stop, &stream, &mut report);
            // Without a connection there is nothing to wait for.
            stop.set();
            result
        });
        stop.wait(options.common.duration());
        counting.join().expect("no thread panics")
    });
    report.error = result.err().map(|error| format!("{error:#}"));
    report.local_port_at_end = stream.local_addr()?.port();
    report.ok = report.error.is_none() && report.answers > 0;
    options.common.report(&report, print)?;
    Ok(report.ok)
}

fn count(
    options: &Options,
    stop: &Stop,
    mut stream: &TcpStream,
    report: &mut Report,
) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut live = options.live.then(Live::new);
    let mut first: Option<Answer> = None;
    let (mut last, mut stall) = (Instant::now(), Duration::ZERO);
    loop {
        stream.write_all(b"next\n")?;
        let line = read_line(&mut reader, stop, || {
            if let Some(live) = &mut live {
                live.show(report, last.elapsed());
            }
        });
        stall = stall.max(last.elapsed());
        last = Instant::now();
        report.stall_ms = millis(stall);

        let answer: Answer = line?.parse()?;
        let server = first.get_or_insert(answer).server;
        ensure!(
            answer.server == server,
            "another process answers: {:016x}, not {server:016x}",
            answer.server
        );
        ensure!(
            answer.line == report.answers + 1,
            "answer {} came where {} was due",
            answer.line,
            report.answers + 1
        );
        ensure!(
            report.last.is_none_or(|last| answer.count > last),
            "the count went back to {}",
            answer.count
        );
        report.answers = answer.line;
        report.server = Some(identity(server));
        report.first = report.first.or(Some(answer.count));
        report.last = Some(answer.count);
        if let Some(live) = &mut live {
            live.show(report, Duration::ZERO);
        }
        thread::sleep(Duration::from_millis(options.interval_ms));
        // However soon the end comes, there is an answer to judge by.
        if stop.is_set() {
            return Ok(());
        }
    }
}

/// Reads a line, calling `waiting` from time to time until it comes.
fn read_line(reader: &mut impl BufRead, stop: &Stop, mut waiting: impl FnMut()) -> Result<String> {
    let mut line = String::new();
    let mut stopped = None;
    loop {
        match reader.read_line(&mut line) {
            Ok(_) if line.ends_with('\n') => return Ok(line.trim_end().to_owned()),
            Ok(_) => bail!("closed by the server"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => waiting(),
            Err(error) => return Err(error.into()),
        }
        if stop.is_set() && stopped.get_or_insert_with(Instant::now).elapsed() > DRAIN {
            bail!("silent");
        }
    }
}

/// What `--live` shows.
struct Live {
    terminal: bool,
    shown: Option<Instant>,
}

impl Live {
    fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            shown: None,
        }
    }

    fn show(&mut self, report: &Report, silent: Duration) {
        let pace = if self.terminal { TICK } else { 10 * TICK };
        if self.shown.is_some_and(|shown| shown.elapsed() < pace) {
            return;
        }
        self.shown = Some(Instant::now());
        let waiting = if silent > TICK {
            format!(", waiting for {} ms", silent.as_millis())
        } else {
            String::new()
        };
        let line = format!(
            "count {}, process {}, our port {}, longest stall {:.0} ms{waiting}",
            report.last.unwrap_or_default(),
            report.server.as_deref().unwrap_or("unknown"),
            report.local_port,
            report.stall_ms,
        );
        if self.terminal {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.terminal {
            eprintln!();
        }
    }
}

fn print(report: &Report) {
    println!("longest stall  {:.0} ms", report.stall_ms);
    println!(
        "socket         the same from start to end: our port {}, at the end {}",
        report.local_port, report.local_port_at_end
    );
    if let (Some(server), Some(first), Some(last)) = (&report.server, report.first, report.last) {
        println!("process        {server} in every answer");
        println!(
            "memory         counted on from {first} to {last}, {} answers, none missing or twice",
            report.answers
        );
    }
    match &report.error {
        Some(error) => println!("BROKEN after answer {}: {error}", report.answers),
        None => println!("ok"),
    }
}
