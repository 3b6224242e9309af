//! Moves a running Podman container from this host to another.
//!
//! [`cli`] is the command line, and [`commands`] is what each of its verbs does. [`migrate`] is the list of
//! phases, [`source`] is what each does to this host, and [`control`] talks to the destination.
//! [`several`] moves more than one.

mod address;
mod choices;
mod cli;
mod commands;
mod control;
mod format;
mod history;
mod hooks;
mod interactive;
mod lock;
mod migrate;
mod progress;
mod recovery;
mod several;
mod source;
mod timeline;

fn main() -> std::process::ExitCode {
    common::multicall::dispatch();
    commands::run(cli::Cli::read())
}
