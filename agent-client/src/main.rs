//! Moves a running Podman container from this host to another.
//!
//! `main.rs` only parses the command line. [`migrate`] is the list of phases; [`source`] is what
//! each does to this host; [`control`] talks to the destination.

mod address;
mod checklist;
mod cli;
mod control;
mod flood;
mod forwards;
mod interactive;
mod lock;
mod migrate;
mod operator;
mod pair;
mod progress;
mod recovery;
mod shorten;
mod source;
mod timeline;

use clap::Parser;

fn main() -> std::process::ExitCode {
    common::multicall::dispatch();
    cli::run(cli::Cli::parse())
}
