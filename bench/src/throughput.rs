//! `bench throughput`: what a flow gets before it moves, after one migration and after two, next to
//! what iperf3 gets over the same path without any migration.

mod case;
mod page;
mod plot;
mod record;

use std::ops::Range;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use clap::Args;
use lab::Host;

use crate::artifacts::Artifacts;
use crate::iperf::{self, Course, Iperf, Moved, rate};
use crate::sample::{Run, unix_ms};
use crate::stage::Stage;
use crate::ways::{self, Ways};
use crate::{agents, publish};
use case::Case;
use record::{Failure, Record, Sample, Turn};

/// How long a flow is left alone before it is measured: it has to find its rate, and find it again
/// after it has moved or was stopped.
const SETTLE: f64 = 1.0;

/// How long it is measured each time.
const WINDOW: f64 = 2.0;

/// How often it takes turns with others before it moves on.
const TURNS: usize = 2;

/// How often iperf3 reports how much has passed.
const INTERVAL: f64 = 0.25;

/// The hosts that a container moves along.
const CHAIN: [&str; 3] = ["source", "destination", "onward"];

#[derive(Args)]
pub(crate) struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Also write PATH.md, PATH.json and PATH.svg, again after each measurement.
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// The name of the lab, which must not exist yet.
    #[arg(long, default_value = "bench-through", hide = true)]
    lab: String,
}

/// Measures and prints; false if something could not be measured. A missed bar is a result.
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
/// compared to, so that whatever else the machine does affects both.
fn measure(stage: &Stage, ways: &Ways, round: usize, case: Case) -> Result<Sample> {
    stage.clean()?;
    let server = "/usr/bin/iperf3 --server --forceflush";
    ways.serve(stage, server)?;
    let port = iperf::PORT;
    stage.run(&format!("-p {port}:{port} localhost/iperf3 {server}"), port)?;

    let mut flow = Contestant::start(stage.client(), "source", port, case)?;
    let mut stretches = Vec::new();
    for migrations in 0..stage.chain().len() {
        let run = match migrations.checked_sub(1) {
            Some(last) => {
                // The migration should find the flow as busy as possible.
                sleep(Duration::from_secs_f64(SETTLE));
                let (from, to) = (&stage.chain()[last], &stage.chain()[migrations]);
                Some(agents::migrate(from, to)?)
            }
            None => None,
        };
        let begun = flow.windows.len();
        let mut plain = None;
        let mut alone = None;
        for _ in 0..TURNS {
            flow.take_turn()?;
            let way = ways::port(migrations);
            turn_of(&mut plain, || {
                Contestant::start(stage.client(), "source", way, case)
            })?;
            if migrations == 1 {
                let (host, to) = (stage.source(), ways.far_end());
                turn_of(&mut alone, || {
                    Contestant::start(host, &to, ways::ALONE, case)
                })?;
            }
            flow.go_on()?;
        }
        stretches.push(Stretch {
            run,
            turns: begun..flow.windows.len(),
            plain: plain.context("nobody had a turn")?.finish(case)?.1,
            alone: alone
                .map(|alone| Ok::<_, anyhow::Error>(alone.finish(case)?.1))
                .transpose()?,
        });
    }
    let paused = flow.paused.clone();
    let (course, rates) = flow.finish(case).context("the flow that moves")?;
    let start = course.start_unix_ms;
    let since = |ms: f64| (ms - start) / 1e3;

    let (mut turns, mut moved) = (Vec::new(), Vec::new());
    for (migrations, stretch) in stretches.into_iter().enumerate() {
        if let Some(run) = &stretch.run {
            moved.push(Moved::of(run, start)?);
        }
        for (number, turn) in stretch.turns.enumerate() {
            turns.push(Turn {
                migrations,
                flow: rates[turn],
                plain: stretch.plain[number],
                alone: stretch.alone.as_ref().map(|rates| rates[number]),
                paused: (since(paused[turn].0), since(paused[turn].1)),
            });
        }
    }
    Ok(Sample {
        round,
        case,
        turns,
        moved,
        course: case
            .seen(&course)
            .iter()
            .map(|i| (i.end, i.bytes as f64 * 8.0 / i.seconds()))
            .collect(),
    })
}

/// What is known, before the flow has ended, about the time between two migrations.
struct Stretch {
    /// The migration before it.
    run: Option<Run>,
    /// Which of the flow's turns are in it.
    turns: Range<usize>,
    plain: Vec<f64>,
    alone: Option<Vec<f64>>,
}

/// A flow that takes turns with others. When it is not its turn, its client is stopped (SIGSTOP), so
/// all of them are equally old, and none has to start again.
struct Contestant<'a> {
    iperf: Iperf,
    host: &'a Host,
    port: u16,
    /// When it was measured, by the machine's clock.
    windows: Vec<(f64, f64)>,
    /// When it was stopped.
    paused: Vec<(f64, f64)>,
}

/// Gives it a turn, either its first or another one.
fn turn_of<'a>(
    contestant: &mut Option<Contestant<'a>>,
    start: impl FnOnce() -> Result<Contestant<'a>>,
) -> Result<()> {
    match contestant {
        Some(contestant) => {
            contestant.go_on()?;
            contestant.take_turn()
        }
        None => contestant.insert(start()?).take_turn(),
    }
}

impl<'a> Contestant<'a> {
    fn start(host: &'a Host, server: &str, port: u16, case: Case) -> Result<Self> {
        let mut arguments = case.arguments();
        // Longer than the whole measurement: it is ended when enough has been seen of it.
        arguments.extend(["--time", "3600"]);
        Ok(Self {
            iperf: Iperf::start(host, server, port, INTERVAL, &arguments)?,
            host,
            port,
            windows: Vec::new(),
            paused: Vec::new(),
        })
    }

    /// Measures it, then stops it.
    fn take_turn(&mut self) -> Result<()> {
        sleep(Duration::from_secs_f64(SETTLE));
        let from = now_ms();
        sleep(Duration::from_secs_f64(WINDOW));
        let to = now_ms();
        self.iperf.goes_on()?;
        self.signal("STOP")?;
        self.windows.push((from, to));
        self.paused.push((to, f64::INFINITY));
        Ok(())
    }

    fn go_on(&mut self) -> Result<()> {
        self.signal("CONT")?;
        if let Some(paused) = self.paused.last_mut() {
            paused.1 = now_ms();
        }
        Ok(())
    }

    /// Ends it; returns what it saw, and its rate each time it was measured, in bits per second.
    fn finish(mut self, case: Case) -> Result<(Course, Vec<f64>)> {
        self.go_on()?;
        let course = self.iperf.stop()?;
        let since = |ms: f64| (ms - course.start_unix_ms) / 1e3;
        let rates = self.windows.iter().map(|(from, to)| {
            let rate = rate(case.seen(&course), since(*from), since(*to));
            rate.context("nothing was measured")
        });
        let rates = rates.collect::<Result<_>>()?;
        Ok((course, rates))
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let (signal, port) = (format!("-{signal}"), self.port);
        // Only on this host, which has its own process namespace.
        let client = format!("^iperf3 .* --port {port} ");
        let output = self.host.run(&["pkill", &signal, "-f", &client])?;
        ensure!(
            output.status.success(),
            "no iperf3 was there to stop: {output}"
        );
        Ok(())
    }
}

fn now_ms() -> f64 {
    unix_ms(SystemTime::now())
}
