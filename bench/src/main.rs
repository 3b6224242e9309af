//! Measures migrations between lab hosts, side by side with what they can be compared to.

mod agents;
mod artifacts;
mod bars;
mod by_hand;
mod chart;
mod client;
mod floor;
mod iperf;
mod job;
mod machine;
mod outage;
mod page;
mod publish;
mod record;
mod sample;
mod stage;
mod statistics;
mod study;
mod summary;
mod table;
mod throughput;
mod timeline;
mod ways;
mod workload;

use std::process::ExitCode;

use clap::Parser;

/// Measures migrations. `scripts/bench` builds what they need, and runs this.
#[derive(Parser)]
enum Bench {
    /// How long clients go without an answer: agents, Podman by hand, and the floor under both.
    Outage(outage::Options),
    /// What a flow gets after one migration and after two, next to plain iperf3 over the same path.
    Throughput(throughput::Options),
    /// One long flow of each kind through two migrations, sampled every tenth of a second.
    Study(study::Options),
}

fn main() -> ExitCode {
    let result = match Bench::parse() {
        Bench::Outage(options) => outage::run(&options),
        Bench::Throughput(options) => throughput::run(&options),
        Bench::Study(options) => study::run(&options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
