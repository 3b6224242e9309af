//! Ordinary paths to an iperf3 server: what a flow gets that has never moved.
//!
//! Each host of the chain has such a server in a container with a published port. The first host
//! forwards a port through its tunnel to each of the others, with address translation. So a flow
//! passes the same hosts, tunnel and bridge as one to a container that has moved there.

use anyhow::{Context, Result, bail};

use crate::by_hand::Tunnel;
use crate::iperf;
use crate::stage::{Stage, bash};

/// The port at which the server at the first host is reached.
const FIRST_PORT: u16 = 5300;

/// The port of the server outside of any container's network, at the far end of the first tunnel.
pub(crate) const ALONE: u16 = 5299;

/// Tunnels from the first host of the chain to each other host, up as long as this value lives, and
/// what is forwarded through them.
pub(crate) struct Ways(Vec<Tunnel>);

impl Ways {
    /// Sets them up.
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
            // Not the address that the next container would get: that container is to move here.
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

/// The port at the source through which the server at this place in the chain is reached.
pub(crate) fn port(place: usize) -> u16 {
    FIRST_PORT + place as u16
}

/// A script that forwards the packets for a port into a tunnel.
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
