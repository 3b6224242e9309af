//! All kinds of state in one process.

mod parts;
mod status;

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use workloads::echo::Server;
use workloads::probe::probe_stream;
use workloads::process::{self, Stop};

use parts::Parts;

/// Keeps every kind of state at once, and reports on a status port whether all of it is intact.
///
/// TCP and UDP echo, an outgoing connection, a Unix socket pair between threads, a pipe with
/// bytes in it, timers, a mapped file, and a file in shared memory.
#[derive(Parser)]
struct Options {
    /// Where to echo, TCP and UDP.
    #[arg(long, default_value = "0.0.0.0:7000")]
    listen: SocketAddr,

    /// Where to print the status, as one JSON object per connection.
    #[arg(long, default_value = "0.0.0.0:7001")]
    status: SocketAddr,

    /// An echo server to keep a connection to.
    #[arg(long)]
    connect: Option<SocketAddr>,

    /// The file to map.
    #[arg(long, default_value = "/data/map")]
    map: PathBuf,

    /// The file in shared memory.
    #[arg(long, default_value = "/dev/shm/everything")]
    shared: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    process::exit_on_signals()?;

    let server = Server::start(options.listen)?;
    eprintln!("listening on {}", server.address);

    let mut parts = Parts::default();
    for millis in [10, 50, 200] {
        let timer = parts::timer(Duration::from_millis(millis));
        parts.start(&format!("timer-{millis}ms"), timer);
    }
    parts.start("pipe", parts::pipe()?);
    parts.start("socket-pair", parts::socket_pair()?);
    parts.start("mapped-file", parts::mapped_file(options.map)?);
    parts.start("shared-file", parts::file(options.shared)?);
    if let Some(address) = options.connect {
        dial(&mut parts, address)?;
    }
    status::serve(options.status, &server, &parts)
}

fn dial(parts: &mut Parts, address: SocketAddr) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    let part = parts.add("outgoing");
    thread::spawn(move || {
        let interval = Duration::from_millis(20);
        let counted = Arc::clone(&part);
        let (_, fault) = probe_stream(&stream, interval, &Stop::default(), |_| counted.progress());
        if let Some(fault) = fault {
            part.fail(&fault);
        }
    });
    Ok(())
}
