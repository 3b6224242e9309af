//! An echo server that keeps state per connection.

use std::net::SocketAddr;

use clap::Parser;
use workloads::echo::Server;
use workloads::process::Stop;

/// Echoes numbered frames over TCP and UDP, and checks that none is missing.
#[derive(Parser)]
struct Options {
    /// Where to listen, for both.
    #[arg(long, default_value = "0.0.0.0:7000")]
    listen: SocketAddr,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let stop = Stop::on_signals()?;
    let server = Server::start(options.listen)?;
    eprintln!("listening on {}", server.address);
    stop.wait(None);
    Ok(())
}
