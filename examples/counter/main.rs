//! A counter in memory, served over TCP.

use std::net::SocketAddr;

use clap::Parser;
use workloads::{counter, process};

/// Answers each line with the next number of a counter kept in memory.
#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:9000")]
    listen: SocketAddr,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    process::exit_on_signals()?;

    let mut count = 0;
    counter::serve(options.listen, move || {
        count += 1;
        Ok(count)
    })
}
