//! Measures migrations between lab hosts, side by side with what they can be compared to.

mod agents;
mod artifacts;
mod bars;
mod by_hand;
mod client;
mod floor;
mod job;
mod machine;
mod outage;
mod page;
mod record;
mod sample;
mod stage;
mod statistics;
mod table;
mod timeline;
mod workload;

use std::process::ExitCode;

use clap::Parser;

/// Measures migrations. `scripts/bench` builds what they need and runs this.
#[derive(Parser)]
enum Bench {
    /// How long clients go without an answer: agents, Podman by hand, and the floor under both.
    Outage(outage::Options),
}

fn main() -> ExitCode {
    let Bench::Outage(options) = Bench::parse();
    match outage::run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
