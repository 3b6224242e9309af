//! `load echo`: many connections, each with numbered frames under way at all times.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use workloads::probe::{Disorder, Fault, Seen, Wait, probe_datagrams, probe_stream};
use workloads::process::Stop;

use crate::{Common, LongestWait, identity, millis};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,

    /// How many connections, or sockets with --udp.
    #[arg(long, default_value_t = 1)]
    connections: usize,

    /// Milliseconds between two frames of one connection.
    #[arg(long, default_value_t = 10)]
    interval_ms: u64,

    /// Send datagrams. Lost, repeated and reordered ones are counted and allowed; a flow that
    /// has no echoes at its end, or another server, is not.
    #[arg(long)]
    udp: bool,
}

/// All connections together.
#[derive(Default, Serialize)]
struct Report {
    ok: bool,
    target: String,
    protocol: &'static str,
    connections: usize,
    seconds: f64,
    sent: u64,
    received: u64,
    /// Frames sent that have no echo.
    lost: u64,
    repeated: u64,
    reordered: u64,
    corrupted: u64,
    /// Connections reset, closed or gone silent.
    resets: u64,
    /// Connections on which another process answered, or one that forgot its count.
    other_server: u64,
    /// The longest time that one connection had no echo.
    stall_ms: f64,
    /// The longest time that one connection waited for an echo, over TCP.
    longest_wait: Option<LongestWait>,
    rtt_p50_ms: f64,
    rtt_p99_ms: f64,
    rtt_max_ms: f64,
    /// The identities that answered: one, if the process behind them is one and the same.
    servers: BTreeSet<String>,
    /// A line per connection that broke.
    errors: Vec<String>,
}

/// One connection.
struct Flow {
    seen: Seen,
    ending: Ending,
    round_trips: Vec<Duration>,
}

/// The work to do on an open connection.
type Probe = Box<dyn FnOnce(&Stop) -> Result<Flow> + Send>;

enum Ending {
    Stream(Option<Fault>),
    Datagrams(Disorder),
}

pub(crate) fn run(options: &Options, stop: &Stop) -> Result<bool> {
    let target = options.common.address;
    let flows: Vec<_> = (0..options.connections)
        .map(|_| open(options))
        .collect::<Result<_>>()
        .with_context(|| format!("connect to {target}"))?;

    let start = Instant::now();
    let flows: Vec<Flow> = thread::scope(|scope| {
        let threads: Vec<_> = flows
            .into_iter()
            .map(|flow| scope.spawn(move || flow(stop)))
            .collect();
        stop.wait(options.common.duration());
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .collect::<Result<_>>()
    })?;

    let report = summarise(options, start.elapsed(), flows);
    options.common.report(&report, print)?;
    Ok(report.ok)
}

/// Opens a connection.
fn open(options: &Options) -> Result<Probe> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let interval = Duration::from_millis(options.interval_ms);
    let target = options.common.address;
    let mut round_trips = Vec::new();

    if options.udp {
        let socket = UdpSocket::bind(any_like(target))?;
        socket.connect(target)?;
        return Ok(Box::new(move |stop| {
            let (seen, disorder) = probe_datagrams(&socket, target, interval, stop, |trip| {
                round_trips.push(trip)
            })?;
            Ok(Flow {
                seen,
                ending: Ending::Datagrams(disorder),
                round_trips,
            })
        }));
    }
    let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    Ok(Box::new(move |stop| {
        let (seen, fault) = probe_stream(&stream, interval, stop, |trip| round_trips.push(trip));
        Ok(Flow {
            seen,
            ending: Ending::Stream(fault),
            round_trips,
        })
    }))
}

fn any_like(target: SocketAddr) -> &'static str {
    match target {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    }
}

fn summarise(options: &Options, elapsed: Duration, flows: Vec<Flow>) -> Report {
    let mut report = Report {
        target: options.common.address.to_string(),
        protocol: if options.udp { "udp" } else { "tcp" },
        connections: flows.len(),
        seconds: elapsed.as_secs_f64().round(),
        ..Report::default()
    };
    let mut round_trips = Vec::new();
    let mut stall = Duration::ZERO;
    let mut wait = None;
    for flow in flows {
        let Flow { seen, ending, .. } = &flow;
        report.sent += seen.sent;
        report.received += seen.received;
        report.lost += seen.lost();
        report.servers.extend(seen.server.map(identity));
        stall = stall.max(seen.stall);
        wait = Wait::longer(wait, seen.wait);
        if let Some(error) = match ending {
            Ending::Stream(fault) => fault.as_ref().map(|fault| report.add_fault(fault)),
            Ending::Datagrams(disorder) => report.add_disorder(disorder),
        } {
            report.errors.push(format!("{}: {error}", seen.local));
        }
        round_trips.extend(flow.round_trips);
    }

    round_trips.sort_unstable();
    let percentile = |percent: usize| {
        let last = round_trips.len().saturating_sub(1);
        round_trips
            .get(last * percent / 100)
            .map_or(0.0, |&trip| millis(trip))
    };
    report.stall_ms = millis(stall);
    report.longest_wait = wait.map(LongestWait::from);
    report.rtt_p50_ms = percentile(50);
    report.rtt_p99_ms = percentile(99);
    report.rtt_max_ms = percentile(100);
    report.ok = report.errors.is_empty() && report.servers.len() == 1;
    report
}

impl Report {
    /// Counts a TCP connection's fault, and describes it.
    fn add_fault(&mut self, fault: &Fault) -> String {
        match fault {
            // Missing frames are counted among those without an echo.
            Fault::Lost { .. } => {}
            Fault::Repeated { .. } => self.repeated += 1,
            Fault::Corrupted(_) => self.corrupted += 1,
            Fault::OtherServer(_) => self.other_server += 1,
            Fault::Reset { .. } | Fault::Closed(_) | Fault::Silent(_) => self.resets += 1,
        }
        fault.to_string()
    }

    /// Counts what happened to a UDP flow, and describes what is not allowed.
    fn add_disorder(&mut self, disorder: &Disorder) -> Option<String> {
        self.repeated += disorder.repeated;
        self.reordered += disorder.reordered;
        self.corrupted += disorder.corrupted;
        self.other_server += disorder.other_server;
        if disorder.corrupted > 0 {
            Some(format!("{} datagrams are no frame", disorder.corrupted))
        } else if disorder.other_server > 0 {
            Some("the server is not the same, or forgot its count".to_owned())
        } else if !disorder.alive {
            Some("no echoes at the end".to_owned())
        } else {
            None
        }
    }
}

fn print(report: &Report) {
    println!(
        "{} {} connections to {}, {} s: {} sent, {} echoed, {} lost, {} repeated, {} reordered, \
         {} corrupted, {} reset",
        report.connections,
        report.protocol,
        report.target,
        report.seconds,
        report.sent,
        report.received,
        report.lost,
        report.repeated,
        report.reordered,
        report.corrupted,
        report.resets,
    );
    println!(
        "longest stall {} ms; round trip p50 {} ms, p99 {} ms, longest {} ms",
        report.stall_ms, report.rtt_p50_ms, report.rtt_p99_ms, report.rtt_max_ms
    );
    for error in &report.errors {
        println!("BROKEN {error}");
    }
    println!("{}", if report.ok { "ok" } else { "BROKEN" });
}
