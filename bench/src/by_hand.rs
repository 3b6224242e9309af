//! A migration as an administrator would do it with Podman's commands, over the same tunnel and
//! with the same treatment of connections as the agents': see the program `by-hand`.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Host;
use serde::Deserialize;

use crate::job::Job;
use crate::sample::{Run, Steps};
use crate::stage::{CONTAINER, Stage, bash, until};

/// A time limit for quick steps.
const SOON: Duration = Duration::from_secs(30);

/// The port that the archive is sent to, inside the tunnel.
const PORT: u16 = 9999;

/// A tunnel between the two hosts, which stays up while this value lives.
pub(crate) struct Tunnel {
    here: End,
    there: End,
    _ends: [Job; 2],
}

/// What `by-hand` prints about one end of a tunnel.
#[derive(Deserialize)]
struct End {
    tunnel: u8,
    peer: IpAddr,
}

impl Tunnel {
    /// Sets it up.
    pub(crate) fn open(from: &Host, to: &Host) -> Result<Self> {
        let client = ["--keeper", "/usr/local/bin/agent-client"];
        let server = ["--keeper", "/usr/local/bin/agent-server"];

        let offer = from.sh(&format!("by-hand offer {}", client.join(" ")))?;
        let peer = from.ipv4().to_string();
        let argv = ["by-hand", "accept", server[0], server[1], &peer];
        let mut accepting = Job::start(to, &argv)?;
        accepting.tell(&offer)?;
        let accepted = accepting.lines(2, SOON)?;

        let peer = to.ipv4().to_string();
        let argv = ["by-hand", "connect", client[0], client[1], &peer];
        let mut connecting = Job::start(from, &argv)?;
        connecting.tell(&accepted[0])?;
        let connected = connecting.lines(1, SOON)?;
        Ok(Self {
            here: serde_json::from_str(&connected[0])?,
            there: serde_json::from_str(&accepted[1])?,
            _ends: [accepting, connecting],
        })
    }

    /// Its interface at the end that offered it.
    pub(crate) fn interface(&self) -> String {
        format!("lmwg{}", self.here.tunnel)
    }

    /// The other end's address inside it.
    pub(crate) fn far_address(&self) -> IpAddr {
        self.here.peer
    }
}

/// Moves the container.
pub(crate) fn run(stage: &Stage, tunnel: &Tunnel) -> Result<Run> {
    let (source, destination) = (stage.source(), stage.destination());
    let address = stage.container_address()?;
    let archive = "/root/bench/archive.tar.zst";
    let peer = tunnel.here.peer;
    let receive = format!("exec nc -l {peer} {PORT} </dev/null >{archive}");
    let mut receiver = Job::start(destination, &["sh", "-c", &receive])?;
    until(SOON, "nc listens", || {
        let sockets = destination.sh(&format!("ss -Hltn sport = :{PORT}"))?;
        Ok(!sockets.is_empty())
    })?;

    let mut steps = Steps::start();
    // Without it, the source would answer clients with resets once the container is gone.
    bash(source, &drop_packets(address))?;
    steps.done("drop packets");
    let frozen = steps.now_ms();
    bash(
        source,
        &format!("podman container checkpoint --export {archive} --tcp-established {CONTAINER}"),
    )?;
    steps.done("podman checkpoint");
    let sent = bash(
        source,
        &format!("nc -N {peer} {PORT} <{archive}; stat --format %s {archive}"),
    )?;
    receiver.succeed(SOON)?;
    let arrived = bash(destination, &format!("stat --format %s {archive}"))?;
    ensure!(sent == arrived, "{arrived} of {sent} bytes arrived");
    steps.done("copy");
    let flows = bash(source, &format!("by-hand flows list {address}"))?;
    let number = tunnel.there.tunnel.to_string();
    let mut installing = Job::start(destination, &["by-hand", "flows", "install", &number])?;
    installing.tell(&flows)?;
    installing.succeed(SOON)?;
    bash(
        source,
        &format!("by-hand flows turn {address} {}", tunnel.here.tunnel),
    )?;
    steps.done("flows");
    bash(
        destination,
        &format!("podman container restore --import {archive} --tcp-established"),
    )?;
    let thawed = steps.now_ms();
    steps.done("podman restore");
    bash(source, "nft delete table inet by_hand")?;
    steps.done("let packets pass");
    bash(
        source,
        &format!("podman rm --force --time 0 --volumes {CONTAINER}"),
    )?;
    steps.done("remove");
    let bytes = sent.parse().with_context(|| sent.clone())?;
    Ok(steps.finish(thawed - frozen, bytes))
}

/// A script that keeps the container's packets from being forwarded. It comes before everything
/// else, so that nothing rejects them either.
fn drop_packets(address: IpAddr) -> String {
    format!(
        "nft -f - <<'END'
        table inet by_hand {{
            chain forward {{
                type filter hook forward priority -300; policy accept
                ip daddr {address} drop
                ip saddr {address} drop
            }}
        }}\nEND"
    )
}
