//! `bench outage`: rounds in which everything that is compared takes its turn.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::artifacts::Artifacts;
use crate::by_hand::{self, Tunnel};
use crate::client::Client;
use crate::record::Record;
use crate::sample::{Failure, Method, Sample, Span};
use crate::stage::Stage;
use crate::workload::Workload;
use crate::{agents, floor, page, publish, table, timeline};

#[derive(Args)]
pub(crate) struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// How often the workloads with gigabytes are measured, if less often: they take minutes.
    #[arg(long, value_name = "ROUNDS")]
    large_rounds: Option<u16>,

    /// What to measure; may be given several times. By default, everything.
    #[arg(long)]
    workload: Vec<Workload>,

    /// How to move it; may be given several times. By default, in every way.
    #[arg(long)]
    method: Vec<Method>,

    /// Also write PATH.md, PATH.json and PATH.svg, again after each measurement.
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// The name of the lab, which must not exist yet.
    #[arg(long, default_value = "bench-outage", hide = true)]
    lab: String,
}

/// Measures and prints; false if something could not be measured. A missed bar is a result.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let workloads = chosen(&options.workload);
    let methods = chosen(&options.method);
    eprintln!("making three hosts and the images");
    let images = workloads.iter().map(|workload| workload.image());
    let chain = ["source", "destination"];
    let stage = Stage::set(&options.lab, &Artifacts::gather()?, &chain, images)?;
    let tunnel =
        Tunnel::open(stage.source(), stage.destination()).context("cannot make a tunnel")?;

    // Otherwise, whatever is slow only the first time would count against those that come first.
    eprintln!("once without counting");
    for &method in methods {
        measure(&stage, &tunnel, 0, workloads[0], method)?;
    }

    let (mut samples, mut failures) = (Vec::new(), Vec::new());
    for round in 1..=usize::from(options.rounds) {
        for &workload in workloads {
            if workload.is_large() && options.large_rounds.is_some_and(|n| round > n.into()) {
                continue;
            }
            for &method in methods {
                let progress = format!("round {round:2}  {workload:10}{method:8}");
                match measure(&stage, &tunnel, round, workload, method) {
                    Ok(sample) => {
                        eprintln!(
                            "{progress}gap {:6.0} ms, frozen {:6.0} ms, total {:6.0} ms{}",
                            sample.gap.ms,
                            sample.run.freeze_ms,
                            sample.run.total_ms,
                            sample
                                .fault
                                .as_deref()
                                .map_or(String::new(), |fault| format!(", not whole: {fault}"))
                        );
                        samples.push(sample);
                    }
                    Err(error) => {
                        eprintln!("{progress}{error:#}");
                        failures.push(Failure {
                            round,
                            workload,
                            method,
                            error: format!("{error:#}"),
                        });
                    }
                }
                if let Some(output) = &options.output {
                    write(output, &record(options, round, &samples, &failures)?)?;
                }
            }
        }
    }
    let record = record(options, options.rounds.into(), &samples, &failures)?;
    print!("{}", table::tables(&record));
    Ok(failures.is_empty())
}

/// The given choices, or all if none was given.
fn chosen<T: ValueEnum>(given: &[T]) -> &[T] {
    match given {
        [] => T::value_variants(),
        given => given,
    }
}

/// One run, watched by a client.
fn measure(
    stage: &Stage,
    tunnel: &Tunnel,
    round: usize,
    workload: Workload,
    method: Method,
) -> Result<Sample> {
    stage.start(workload)?;
    let mut client = Client::connect(stage, workload)?;
    let run = match method {
        Method::Floor => floor::run(stage)?,
        Method::ByHand => by_hand::run(stage, tunnel)?,
        Method::Agents => agents::run(stage)?,
    };
    client.wait_recovered(stage)?;
    let seen = client.finish()?;
    let complaint = match method {
        // The floor has no host to complain on.
        Method::Floor => None,
        _ => stage.complaint()?,
    };
    let wait = seen.wait()?;
    Ok(Sample {
        round,
        workload,
        method,
        gap: Span {
            start_ms: wait.start_unix_ms - run.start_unix_ms,
            ms: wait.ms,
        },
        fault: seen.fault().or(complaint),
        run,
    })
}

fn record(
    options: &Options,
    rounds: usize,
    samples: &[Sample],
    failures: &[Failure],
) -> Result<Record> {
    let mut command = format!("scripts/bench outage --rounds {}", options.rounds);
    if let Some(rounds) = options.large_rounds {
        command += &format!(" --large-rounds {rounds}");
    }
    for workload in &options.workload {
        command += &format!(" --workload {workload}");
    }
    for method in &options.method {
        let method = method.to_possible_value().expect("none is skipped");
        command += &format!(" --method {}", method.get_name());
    }
    if let Some(output) = &options.output {
        command += &format!(" --output {}", output.display());
    }
    Ok(Record::of(
        command,
        publish::date()?,
        rounds,
        samples.to_vec(),
        failures.to_vec(),
    ))
}

fn write(output: &Path, record: &Record) -> Result<()> {
    let name = publish::name(output)?;
    publish::write(output, "md", &page::page(record, &name))?;
    publish::json(output, record)?;
    publish::write(output, "svg", &timeline::draw(record))
}
