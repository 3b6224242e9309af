//! `bench study`: one long flow of each kind through two migrations, sampled every tenth of a
//! second.

mod datagrams;
mod page;
mod plots;
mod record;
mod search;

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::Args;
use lab::Host;

use crate::artifacts::Artifacts;
use crate::iperf::{self, Course, Iperf, Moved};
use crate::machine::Machine;
use crate::sample::unix_ms;
use crate::stage::{CONTAINER, Stage};
use crate::ways::{self, Ways};
use crate::{agents, publish};
use datagrams::{Control, Datagrams, INTERVAL, LENGTH};
use record::{Record, Tcp, VERSION};

/// When the container of a flow is moved, in seconds from the flow's start.
const MOVES: [f64; 2] = [20.0, 40.0];

/// How long a flow that does not move is watched, for each path.
const CONTROL: f64 = 20.0;

/// How long a rate is tried, in seconds.
const TRY: f64 = 3.0;

/// Size of a datagram: the smallest that iperf3 can send.
const BYTES: &str = "16";

/// The hosts that a container moves along.
const CHAIN: [&str; 3] = ["source", "destination", "onward"];

const SERVER: &str = "/usr/bin/iperf3 --server --json --interval 0.1";

#[derive(Args)]
pub(crate) struct Options {
    /// Write PATH.md, PATH.json and PATH-*.svg.
    #[arg(long, value_name = "PATH", default_value = "docs/study")]
    output: PathBuf,

    /// The name of the lab, which must not exist yet.
    #[arg(long, default_value = "bench-study", hide = true)]
    lab: String,
}

/// Measures and writes.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let name = publish::name(&options.output)?;
    eprintln!("making four hosts and the image");
    let stage = Stage::set(&options.lab, &Artifacts::gather()?, &CHAIN, ["iperf3"])?;
    let ways = Ways::open(&stage)?;
    let wireguard = stage.wireguard()?;

    eprintln!("TCP, both directions at once");
    let (client, server, moved) = moving(&stage, &ways, &["--bidir"])?;
    let tcp = Tcp::of(&client, &server, moved);

    eprintln!("datagrams at full rate");
    let full = datagrams(&stage, &ways, None)?;

    eprintln!("the highest rate without loss");
    let (_, arriving) = full.control_rate(MOVES.len());
    let rate = search::highest(arriving, |rate| lossless(&stage, rate))?;
    eprintln!("datagrams at {rate} a second");
    let steady = datagrams(&stage, &ways, Some(rate))?;

    let record = Record {
        version: VERSION,
        command: format!("scripts/study --output {}", options.output.display()),
        date: publish::date()?,
        machine: Machine::look(),
        wireguard,
        tcp,
        datagrams: vec![full, steady],
    };
    publish::write(&options.output, "md", &page::page(&record, &name))?;
    let json = serde_json::to_string(&record)? + "\n";
    publish::write(&options.output, "json", &json)?;
    for (what, plot) in plots::draw(&record) {
        let output = options.output.with_file_name(format!("{name}-{what}"));
        publish::write(&output, "svg", &plot)?;
    }
    print!("{}", page::tables(&record));
    Ok(true)
}

/// A flow through both migrations, as client and server saw it, and when the migrations were.
fn moving(stage: &Stage, ways: &Ways, flow: &[&str]) -> Result<(Course, Course, Vec<Moved>)> {
    stage.clean()?;
    ways.serve(stage, SERVER)?;
    let port = iperf::PORT;
    stage.run(
        &format!("-p {port}:{port} -p {port}:{port}/udp localhost/iperf3 {SERVER}"),
        port,
    )?;

    let begun = SystemTime::now();
    let mut iperf = start(stage.client(), port, LENGTH, flow)?;
    let mut runs = Vec::new();
    for (pair, at) in stage.chain().windows(2).zip(MOVES) {
        let since = begun.elapsed().unwrap_or_default();
        sleep(Duration::from_secs_f64(at).saturating_sub(since));
        iperf.goes_on()?;
        runs.push(agents::migrate(&pair[0], &pair[1])?);
    }
    let client = iperf.finish(Duration::from_secs_f64(LENGTH))?;
    let last = stage.chain().last().context("there are hosts")?;
    let server = iperf::of_server(last, CONTAINER, INTERVAL, &client)?;
    let moved = runs
        .iter()
        .map(|run| Moved::of(run, client.start_unix_ms))
        .collect::<Result<_>>()?;
    eprintln!(
        "  {:.0} s",
        (unix_ms(SystemTime::now()) - unix_ms(begun)) / 1e3
    );
    Ok((client, server, moved))
}

/// Datagrams through both migrations, and over the same paths without any: at this many per second,
/// or as many as possible.
fn datagrams(stage: &Stage, ways: &Ways, rate: Option<u64>) -> Result<Datagrams> {
    let bits = bits(rate);
    let flow = ["--udp", "--length", BYTES, "--bitrate", &bits];
    let (client, server, moved) = moving(stage, ways, &flow)?;
    let mut controls = Vec::new();
    for place in 0..stage.chain().len() {
        let (client, server) = resting(stage, place, CONTROL, &flow)?;
        controls.push(Control::of(place, &client, &server));
    }
    Ok(Datagrams::of(rate, &client, &server, moved, controls))
}

/// Whether no datagram is lost at this rate on the way to the last host. There is a second attempt,
/// in case the machine was briefly busy with something else.
fn lossless(stage: &Stage, rate: u64) -> Result<bool> {
    let bits = bits(Some(rate));
    let flow = ["--udp", "--length", BYTES, "--bitrate", &bits];
    for _ in 0..2 {
        let (client, server) = resting(stage, stage.chain().len() - 1, TRY, &flow)?;
        let control = Control::of(0, &client, &server);
        if control.lost == 0 && control.sent_rate() > 0.9 * rate as f64 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A flow that does not move, to the server at this place in the chain. The client may fail because the processors
/// are so busy; the client of a flow that moves may not.
fn resting(stage: &Stage, place: usize, seconds: f64, flow: &[&str]) -> Result<(Course, Course)> {
    let attempt = || {
        let limit = Duration::from_secs_f64(seconds);
        let iperf = start(stage.client(), ways::port(place), seconds, flow)?;
        let client = iperf.finish(limit)?;
        let host = &stage.chain()[place];
        let server = iperf::of_server(host, "plain", INTERVAL, &client)?;
        Ok((client, server))
    };
    attempt().or_else(|error: anyhow::Error| {
        eprintln!("  once more: {error:#}");
        sleep(Duration::from_secs(1));
        attempt()
    })
}

fn start(client: &Host, port: u16, seconds: f64, flow: &[&str]) -> Result<Iperf> {
    let seconds = seconds.to_string();
    let mut arguments = vec!["--time", &seconds];
    arguments.extend(flow);
    Iperf::start(client, "source", port, INTERVAL, &arguments)
}

/// A rate of datagrams in iperf3's notation; 0 means no limit.
fn bits(rate: Option<u64>) -> String {
    let bytes: u64 = BYTES.parse().expect("it is a number");
    (rate.unwrap_or(0) * bytes * 8).to_string()
}
