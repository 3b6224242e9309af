//! The checker: sits at the far end of a workload's connections and proves that they stay whole.

mod count;
mod echo;
mod redis;
mod serve;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use workloads::probe::Wait;
use workloads::process::Stop;

/// Loads a workload from outside and checks that its connections stay whole.
///
/// Connections are opened once and never again. Ends after --duration-s or on SIGINT or SIGTERM,
/// then prints what it saw. Status 0: everything was whole; 1: something was not.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send numbered frames to an echo server and check every echo.
    Echo(echo::Options),
    /// Count on one connection to a counter.
    Count(count::Options),
    /// Count up a key of a Redis server on one connection.
    Redis(redis::Options),
    /// Be the echo server that a container connects out to.
    Serve(serve::Options),
}

/// The options that all commands have.
#[derive(Args)]
struct Common {
    /// The address and port.
    address: SocketAddr,

    /// Seconds to run; without it, until a signal.
    #[arg(long)]
    duration_s: Option<u64>,

    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

impl Common {
    fn duration(&self) -> Option<Duration> {
        self.duration_s.map(Duration::from_secs)
    }

    /// Prints the report: as JSON if asked for, otherwise with `print`.
    fn report<R: Serialize>(&self, report: &R, print: impl FnOnce(&R)) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(report)?);
        } else {
            print(report);
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let result = Stop::on_signals()
        .map_err(anyhow::Error::from)
        .and_then(|stop| match Options::parse().command {
            Command::Echo(options) => echo::run(&options, &stop),
            Command::Count(options) => count::run(&options, &stop),
            Command::Redis(options) => redis::run(&options, &stop),
            Command::Serve(options) => serve::run(&options, &stop),
        });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A [`Wait`] as reported, by this host's clock.
#[derive(Serialize)]
struct LongestWait {
    start_unix_ms: f64,
    ms: f64,
}

impl From<Wait> for LongestWait {
    fn from(wait: Wait) -> Self {
        let since = wait.start.duration_since(SystemTime::UNIX_EPOCH);
        Self {
            start_unix_ms: millis(since.unwrap_or_default()),
            ms: millis(wait.duration),
        }
    }
}

/// Milliseconds including fractions.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// An identity in the form that the workloads print.
fn identity(server: u64) -> String {
    format!("{server:016x}")
}
