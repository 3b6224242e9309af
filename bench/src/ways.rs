//! Ordinary ways to an iperf3 server: what a flow gets that never moved.
//!
//! The server is in a container of its own, with a published port, at either host of the chain. The
//! first host forwards the port through its tunnel to that one, with address translation: so a flow
//! passes the same hosts, tunnel and bridge as one to a container that has moved there.

use anyhow::{Context, Result, bail};

use crate::by_hand::Tunnel;
use crate::iperf;
use crate::stage::{Stage, bash};

/// Where the server at the first host is reached.
const FIRST_PORT: u16 = 5300;

/// Of the server that has no container's network, at the far end of the first tunnel.
pub(crate) const ALONE: u16 = 5299;

/// A tunnel from the first host of the chain to either other, up as long as this exists, and what is
/// forwarded through them.
pub(crate) struct Ways(Vec<Tunnel>);

impl Ways {
    /// Makes them.
    pub(crate) fn open(stage: &Stage) -> Result<Self> {
        let mut tunnels = Vec::new();
        let [source, others @ ..] = stage.chain() else {
            bail!("there is no host");
        };
        for (number, host) in others.iter().enumerate() {
            let tunnel = Tunnel::open(source, host).context("cannot make a tunnel")?;
            bash(source, &forward(&tunnel, port(1 + number)))?;
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

/// Where, at the source, the server at this place in the chain is reached.
pub(crate) fn port(place: usize) -> u16 {
    FIRST_PORT + place as u16
}

/// A script that sends what comes for a port into a tunnel.
fn forward(tunnel: &Tunnel, port: u16) -> String {
    let (interface, to) = (tunnel.interface(), tunnel.far_address());
    format!(
        "nft -f - <<'END'
        table ip plain_way_{port} {{
            chain prerouting {{
                type nat hook prerouting priority dstnat - 5
                fib daddr type local meta l4proto {{ tcp, udp }} th dport {port} dnat to {to}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat - 5
                oifname {interface} meta l4proto {{ tcp, udp }} ct original proto-dst {port} masquerade
            }}
        }}\nEND"
    )
}
