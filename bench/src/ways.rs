//! Ordinary ways to an iperf3 server: what a flow gets that never moved.
//!
//! The server is in a container of its own, with a published port, at either host of the chain. The
//! hosts before it forward the port through the tunnels, with address translation: so a flow passes
//! as many hosts, tunnels and bridges as one to a container that has moved there.

use anyhow::{Context, Result};

use crate::by_hand::Tunnel;
use crate::iperf;
use crate::stage::{Stage, bash};

/// Where the server behind so many tunnels is reached, at the source.
const FIRST_PORT: u16 = 5300;

/// Of the server that has no container's network, at the far end of the first tunnel.
pub(crate) const ALONE: u16 = 5299;

/// A tunnel between each two neighbours of the chain, up as long as this exists, and what is
/// forwarded through them.
pub(crate) struct Ways(Vec<Tunnel>);

impl Ways {
    /// Makes them.
    pub(crate) fn open(stage: &Stage) -> Result<Self> {
        let mut tunnels = Vec::new();
        let last = stage.chain().len() - 1;
        for (place, pair) in stage.chain().windows(2).enumerate() {
            let tunnel = Tunnel::open(&pair[0], &pair[1]).context("cannot make a tunnel")?;
            bash(&pair[0], &forward(&tunnel, place + 1, last))?;
            tunnels.push(tunnel);
        }
        Ok(Self(tunnels))
    }

    /// The address of the far end of the first tunnel.
    pub(crate) fn far_end(&self) -> String {
        self.0[0].far_address().to_string()
    }

    /// Starts the servers. [`Stage::clean`] removes them.
    pub(crate) fn serve(&self, stage: &Stage, server: &str) -> Result<()> {
        for (place, host) in stage.chain().iter().enumerate() {
            let (port, inside) = (port(place), iperf::PORT);
            // Not the address that the next container would get: it is to move here.
            let address = 1 + place;
            host.sh(&format!(
                "podman run -qd --name plain --ip 10.88.200.{address} -p {port}:{inside} \
                 -p {port}:{inside}/udp localhost/iperf3 {server}"
            ))?;
        }
        stage.chain()[1].sh(&format!(
            "podman run -qd --name alone --network host localhost/iperf3 {server} --port {ALONE}"
        ))?;
        Ok(())
    }
}

/// Where the server behind so many tunnels is reached, at the source.
pub(crate) fn port(tunnels: usize) -> u16 {
    FIRST_PORT + tunnels as u16
}

/// A script that sends what comes for the servers behind `first` to `last` tunnels into one.
fn forward(tunnel: &Tunnel, first: usize, last: usize) -> String {
    let ports = format!("{}-{}", port(first), port(last));
    let (interface, to) = (tunnel.interface(), tunnel.far_address());
    format!(
        "nft -f - <<'END'
        table ip plain_ways {{
            chain prerouting {{
                type nat hook prerouting priority dstnat - 5
                fib daddr type local meta l4proto {{ tcp, udp }} th dport {ports} dnat to {to}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat - 5
                oifname {interface} meta l4proto {{ tcp, udp }} ct original proto-dst {ports} masquerade
            }}
        }}\nEND"
    )
}
