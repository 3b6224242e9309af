//! A client that opens its connections once and keeps them.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use workloads::echo::Server;
use workloads::probe::{probe_datagrams, probe_stream};
use workloads::process::Stop;

/// Connects to echo servers and sends numbered frames on those connections, for ever.
///
/// At the first echo that is missing, repeated or wrong it prints BROKEN and why, and exits with
/// status 1. Lost datagrams are printed at the end and are not a fault, unless all are lost by
/// then.
#[derive(Parser)]
struct Options {
    /// The servers: `load serve`, or the echo workload.
    #[arg(required = true)]
    servers: Vec<SocketAddr>,

    /// The kinds of connections to keep to each server.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tcp")]
    keep: Vec<Kind>,

    /// Also be an echo server, like the echo workload.
    #[arg(long)]
    listen: Option<SocketAddr>,

    /// Milliseconds between two frames.
    #[arg(long, default_value_t = 20)]
    interval_ms: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// A TCP connection.
    Tcp,
    /// Datagrams on a connected socket.
    Udp,
    /// Datagrams on a socket that is not connected.
    UdpUnconnected,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let stop = Stop::on_signals()?;
    let interval = Duration::from_millis(options.interval_ms);
    let _server = options.listen.map(Server::start).transpose()?;
    let pairs = options.servers.iter().flat_map(|server| {
        let kinds = options.keep.iter();
        kinds.map(move |kind| (*kind, *server))
    });
    thread::scope(|scope| {
        for (kind, server) in pairs {
            let stop = &stop;
            scope.spawn(move || {
                if let Err(error) = keep(kind, server, interval, stop) {
                    println!("BROKEN {kind:?} to {server}: {error:#}");
                    std::process::exit(1);
                }
            });
        }
    });
    Ok(())
}

/// Keeps one connection until `stop`, and prints what it saw.
fn keep(kind: Kind, server: SocketAddr, interval: Duration, stop: &Stop) -> anyhow::Result<()> {
    let on_echo = progress();
    let (Kind::Udp | Kind::UdpUnconnected) = kind else {
        let (seen, fault) = probe_stream(&connect(server)?, interval, stop, on_echo);
        println!("{kind:?} to {server}: {seen:?}");
        return fault.map_or(Ok(()), |fault| Err(fault.into()));
    };
    let any = match server {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let socket = UdpSocket::bind(any)?;
    if let Kind::Udp = kind {
        socket.connect(server)?;
    }
    let (seen, disorder) = probe_datagrams(&socket, server, interval, stop, on_echo)?;
    println!("{kind:?} to {server}: {seen:?} {disorder:?}");
    anyhow::ensure!(disorder.alive, "no echoes at the end");
    anyhow::ensure!(disorder.other_server == 0, "another server");
    Ok(())
}

/// Connects, retrying for a while: a container often starts before the servers it needs.
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
