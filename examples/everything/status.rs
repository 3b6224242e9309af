//! The status port: one JSON object per connection.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use workloads::echo::Server;

use crate::parts::Parts;

/// Longer than a step of any part takes.
const WATCH: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct Status<'a> {
    /// Every part makes progress and none found a fault.
    ok: bool,
    /// Distinguishes this process from a restarted one.
    server: String,
    parts: BTreeMap<&'a str, PartStatus>,
    echo: EchoStatus,
}

#[derive(Serialize)]
struct PartStatus {
    count: u64,
    moving: bool,
    fault: Option<String>,
}

/// The echo server only makes progress when clients do, so only its faults count.
#[derive(Serialize)]
struct EchoStatus {
    connections: usize,
    frames: u64,
    datagrams: u64,
    faults: Vec<String>,
}

/// Answers on `address` until the process ends.
pub(crate) fn serve(address: SocketAddr, server: &Server, parts: &Parts) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(address).with_context(|| format!("listen on {address} for status"))?;
    eprintln!("status on {}", listener.local_addr()?);
    loop {
        if let Ok((stream, _)) = listener.accept()
            && let Err(error) = answer(stream, server, parts)
        {
            eprintln!("status not delivered: {error:#}");
        }
    }
}

fn answer(mut stream: TcpStream, server: &Server, parts: &Parts) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(&look(server, parts))?;
    text.push(b'\n');
    Ok(stream.write_all(&text)?)
}

/// Watches the parts for a moment.
fn look<'a>(server: &Server, parts: &'a Parts) -> Status<'a> {
    let before: Vec<_> = parts.iter().map(|part| part.count()).collect();
    thread::sleep(WATCH);
    let parts: BTreeMap<_, _> = parts
        .iter()
        .zip(before)
        .map(|(part, before)| {
            let count = part.count();
            let status = PartStatus {
                count,
                moving: count > before,
                fault: part.fault(),
            };
            (part.name.as_str(), status)
        })
        .collect();

    let connections = server.connections();
    let echo = EchoStatus {
        connections: connections.len(),
        frames: connections.iter().map(|connection| connection.frames).sum(),
        datagrams: server.datagrams(),
        faults: connections
            .into_iter()
            .filter_map(|connection| connection.fault)
            .collect(),
    };
    Status {
        ok: echo.faults.is_empty()
            && parts
                .values()
                .all(|part| part.moving && part.fault.is_none()),
        server: format!("{:016x}", server.id),
        parts,
        echo,
    }
}
