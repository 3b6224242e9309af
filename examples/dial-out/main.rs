//! A client that opens one connection and keeps it.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use workloads::probe::{probe_datagrams, probe_stream};
use workloads::process::Stop;

/// Connects to an echo server and sends numbered frames on that one connection, for ever.
///
/// At the first echo that is missing, repeated or wrong it prints BROKEN and why, and exits with
/// status 1.
#[derive(Parser)]
struct Options {
    /// The server: `load serve`, or the echo workload.
    server: SocketAddr,

    /// Send datagrams; then losses are printed at the end and break nothing.
    #[arg(long)]
    udp: bool,

    /// Milliseconds between two frames.
    #[arg(long, default_value_t = 20)]
    interval_ms: u64,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let stop = Stop::on_signals()?;
    let interval = Duration::from_millis(options.interval_ms);
    let on_echo = progress();

    if options.udp {
        let any = match options.server {
            SocketAddr::V4(_) => "0.0.0.0:0",
            SocketAddr::V6(_) => "[::]:0",
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(options.server)?;
        let (seen, disorder) = probe_datagrams(&socket, interval, &stop, on_echo)?;
        println!("{seen:?} {disorder:?}");
        return Ok(());
    }

    let stream = connect(options.server)?;
    let (seen, fault) = probe_stream(&stream, interval, &stop, on_echo);
    println!("{seen:?}");
    if let Some(fault) = fault {
        println!("BROKEN {fault}");
        std::process::exit(1);
    }
    Ok(())
}

/// Connects, trying again for a while: a container often starts before what it needs.
fn connect(server: SocketAddr) -> anyhow::Result<TcpStream> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let start = Instant::now();
    loop {
        match TcpStream::connect(server) {
            Ok(stream) => return Ok(stream),
            Err(_) if start.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(100)),
            Err(error) => return Err(error).with_context(|| format!("connect to {server}")),
        }
    }
}

/// Prints a line every second.
fn progress() -> impl FnMut(Duration) {
    let (mut echoes, mut slowest, mut printed) = (0_u64, Duration::ZERO, Instant::now());
    move |round_trip| {
        echoes += 1;
        slowest = slowest.max(round_trip);
        if printed.elapsed() >= Duration::from_secs(1) {
            println!("{echoes} echoes, slowest {} ms", slowest.as_millis());
            printed = Instant::now();
        }
    }
}
