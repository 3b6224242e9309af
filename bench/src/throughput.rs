//! `bench throughput`: what a flow gets before it moves, after one migration and after two, next to
//! what iperf3 gets over the same way without any.

mod case;
mod page;
mod plot;
mod record;

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::Args;
use lab::Host;

use crate::artifacts::Artifacts;
use crate::iperf::{self, Interval, Iperf, Moved, rate};
use crate::sample::unix_ms;
use crate::stage::Stage;
use crate::ways::{self, Ways};
use crate::{agents, publish};
use case::Case;
use record::{Failure, Record, Sample, Turn};

/// How long a flow is left alone before it is measured: it has to find its rate, anew after it has
/// moved or stood still.
const SETTLE: f64 = 1.0;

/// How long it is measured at a time.
const WINDOW: f64 = 2.0;

/// How often it takes turns with others before it is moved on.
const TURNS: usize = 2;

/// How often iperf3 says how much has passed.
const INTERVAL: f64 = 0.25;

/// The hosts that a container moves along.
const CHAIN: [&str; 3] = ["source", "destination", "onward"];

#[derive(Args)]
pub(crate) struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Write PATH.md, PATH.json and PATH.svg too, anew after each measurement.
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// The name of the lab, which must not exist.
    #[arg(long, default_value = "bench-through", hide = true)]
    lab: String,
}

/// Measures and prints; false if something could not be measured. A bar that is missed is a result.
pub(crate) fn run(options: &Options) -> Result<bool> {
    eprintln!("making four hosts and the image");
    let stage = Stage::set(&options.lab, &Artifacts::gather()?, &CHAIN, ["iperf3"])?;
    let ways = Ways::open(&stage)?;
    let wireguard = stage.wireguard()?;

    let (mut samples, mut failures) = (Vec::new(), Vec::new());
    let mut record = None;
    for round in 1..=usize::from(options.rounds) {
        for case in Case::ALL {
            let progress = format!("round {round:2}  {case:32}");
            match measure(&stage, &ways, round, case) {
                Ok(sample) => {
                    eprintln!("{progress}{sample}");
                    samples.push(sample);
                }
                Err(error) => {
                    eprintln!("{progress}{error:#}");
                    failures.push(Failure {
                        round,
                        case,
                        error: format!("{error:#}"),
                    });
                }
            }
            let now = Record::of(
                command(options),
                publish::date()?,
                wireguard.clone(),
                round,
                samples.clone(),
                failures.clone(),
            );
            if let Some(output) = &options.output {
                let name = publish::name(output)?;
                publish::write(output, "md", &page::page(&now, &name))?;
                publish::json(output, &now)?;
                publish::write(output, "svg", &plot::draw(&now))?;
            }
            record = Some(now);
        }
    }
    if let Some(record) = record {
        print!("{}", page::tables(&record));
    }
    Ok(failures.is_empty())
}

fn command(options: &Options) -> String {
    let mut command = format!("scripts/bench throughput --rounds {}", options.rounds);
    if let Some(output) = &options.output {
        command += &format!(" --output {}", output.display());
    }
    command
}

/// One flow through two migrations. Before, between and after them it takes turns with what it is
/// compared to: what else the machine does then falls on both.
fn measure(stage: &Stage, ways: &Ways, round: usize, case: Case) -> Result<Sample> {
    stage.clean()?;
    let server = "/usr/bin/iperf3 --server --forceflush";
    ways.serve(stage, server)?;
    let port = iperf::PORT;
    stage.run(&format!("-p {port}:{port} localhost/iperf3 {server}"), port)?;

    let mut arguments = case.arguments();
    // Longer than all of it: it is ended when it has been seen enough of.
    arguments.extend(["--time", "3600"]);
    let mut iperf = Iperf::start(stage.client(), "source", port, INTERVAL, &arguments)?;
    let (mut turns, mut runs) = (Vec::new(), Vec::new());
    for migrations in 0..stage.chain().len() {
        if let Some(last) = migrations.checked_sub(1) {
            runs.push(agents::migrate(
                &stage.chain()[last],
                &stage.chain()[migrations],
            )?);
        }
        for _ in 0..TURNS {
            turns.push(turn(stage, ways, case, migrations, &mut iperf)?);
        }
        // The migration is to find it as busy as can be.
        sleep(Duration::from_secs_f64(SETTLE));
    }
    let course = iperf.stop().context("the flow that moves")?;
    let seen = case.seen(&course);
    Ok(Sample {
        round,
        case,
        turns: turns
            .into_iter()
            .map(|turn| turn.seen(seen, course.start_unix_ms))
            .collect::<Result<_>>()?,
        moved: runs
            .iter()
            .map(|run| Moved::of(run, course.start_unix_ms))
            .collect::<Result<_>>()?,
        course: seen
            .iter()
            .map(|i| (i.end, i.bytes as f64 * 8.0 / i.seconds()))
            .collect(),
    })
}

/// A turn as long as it is not known what passed of the flow. Times are the machine's.
struct Taken {
    migrations: usize,
    flow_ms: (f64, f64),
    paused_ms: (f64, f64),
    plain: f64,
    alone: Option<f64>,
}

/// Lets the flow be for a while, then stops it and lets others pass.
fn turn(
    stage: &Stage,
    ways: &Ways,
    case: Case,
    migrations: usize,
    iperf: &mut Iperf,
) -> Result<Taken> {
    let now = || unix_ms(SystemTime::now());
    sleep(Duration::from_secs_f64(SETTLE));
    let from = now();
    sleep(Duration::from_secs_f64(WINDOW));
    let to = now();
    iperf.goes_on()?;
    let client = stage.client();
    client.sh("pkill -STOP -x iperf3")?;
    let plain = plain(client, "source", ways::port(migrations), case)?;
    let alone = (migrations == 1)
        .then(|| self::plain(stage.source(), &ways.far_end(), ways::ALONE, case))
        .transpose()?;
    client.sh("pkill -CONT -x iperf3")?;
    Ok(Taken {
        migrations,
        flow_ms: (from, to),
        paused_ms: (to, now()),
        plain,
        alone,
    })
}

impl Taken {
    fn seen(self, flow: &[Interval], start_unix_ms: f64) -> Result<Turn> {
        let since = |ms: f64| (ms - start_unix_ms) / 1e3;
        let (from, to) = (since(self.flow_ms.0), since(self.flow_ms.1));
        Ok(Turn {
            migrations: self.migrations,
            flow: rate(flow, from, to).context("nothing of the flow was measured")?,
            plain: self.plain,
            alone: self.alone,
            paused: (since(self.paused_ms.0), since(self.paused_ms.1)),
        })
    }
}

/// Bits per second of a flow that does not move.
fn plain(host: &Host, server: &str, port: u16, case: Case) -> Result<f64> {
    let end = SETTLE + WINDOW;
    let seconds = end.to_string();
    let mut arguments = case.arguments();
    arguments.extend(["--time", &seconds]);
    let course = Iperf::start(host, server, port, INTERVAL, &arguments)?
        .finish(Duration::from_secs_f64(end))
        .with_context(|| format!("plain iperf3 to {server}, port {port}"))?;
    let slack = INTERVAL / 2.0;
    rate(case.seen(&course), SETTLE - slack, end + slack).context("nothing was measured")
}
