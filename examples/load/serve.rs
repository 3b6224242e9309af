//! `load serve`: the outside end of a container's outgoing connections.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use workloads::echo::Server;
use workloads::process::Stop;

use crate::{Common, millis};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,

    /// How many connections are expected: more means that one was opened again.
    #[arg(long, default_value_t = 1)]
    connections: usize,
}

#[derive(Serialize)]
struct Report {
    /// As many connections as expected, each of them whole.
    ok: bool,
    listen: String,
    seconds: f64,
    connections: Vec<Connection>,
    /// Datagrams echoed, from all peers.
    datagrams: u64,
    /// Where datagrams came from.
    senders: BTreeSet<SocketAddr>,
}

#[derive(Serialize)]
struct Connection {
    peer: String,
    frames: u64,
    /// The longest time between two frames.
    stall_ms: f64,
    error: Option<String>,
}

pub(crate) fn run(options: &Options, stop: &Stop) -> Result<bool> {
    let address = options.common.address;
    let server = Server::start(address).with_context(|| format!("listen on {address}"))?;
    eprintln!("listening on {}", server.address);
    let start = Instant::now();
    stop.wait(options.common.duration());

    let connections: Vec<_> = server
        .connections()
        .into_iter()
        .map(|connection| Connection {
            peer: connection.peer.to_string(),
            frames: connection.frames,
            stall_ms: millis(connection.stall),
            error: connection.fault,
        })
        .collect();
    let whole = connections
        .iter()
        .all(|connection| connection.error.is_none() && connection.frames > 0);
    let report = Report {
        ok: whole && connections.len() == options.connections,
        listen: server.address.to_string(),
        seconds: start.elapsed().as_secs_f64().round(),
        connections,
        datagrams: server.datagrams(),
        senders: server.senders(),
    };
    options.common.report(&report, print)?;
    Ok(report.ok)
}

fn print(report: &Report) {
    for connection in &report.connections {
        println!(
            "{}: {} frames, longest stall {} ms{}",
            connection.peer,
            connection.frames,
            connection.stall_ms,
            match &connection.error {
                Some(error) => format!(", BROKEN {error}"),
                None => String::new(),
            }
        );
    }
    println!("{} datagrams", report.datagrams);
    println!("{}", if report.ok { "ok" } else { "BROKEN" });
}
