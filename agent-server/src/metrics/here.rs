//! What this host has now. What cannot be found out is left out: it is not 0.

use std::fmt::Debug;

use common::container::restore::pager;
use common::net::state::Dirs;
use common::net::tunnel::status;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use trust::Peers;

use super::Label;

/// Adds it to the registry. Reads records and the connection tracking table; changes nothing. Blocks.
pub(super) fn look(registry: &mut Registry, peers: &Peers) {
    if let Some(tunnels) = found("tunnels", status::list(&Dirs::default())) {
        let states = Family::<Label, Gauge>::default();
        for (value, alive) in [("up", true), ("dead", false)] {
            let label = Label {
                name: "state",
                value,
            };
            let count = tunnels.iter().filter(|tunnel| tunnel.alive == alive);
            states.get_or_create(&label).set(count.count() as i64);
        }
        registry.register("tunnels", "Tunnels of this host, in both roles", states);
        let flows = tunnels.iter().map(|tunnel| tunnel.flows as i64).sum();
        let help = "Tracked connections whose packets take tunnels";
        registry.register("flows", help, gauge(flows));
    }
    if let Some(peers) = found("peers", peers.list()) {
        let help = "Hosts that may send containers here";
        registry.register("peers", help, gauge(peers.len() as i64));
    }
    if let Some(filling) = found("pagers", pager::filling()) {
        let help = "Containers here whose memory is not all in their processes yet";
        registry.register("pagers", help, gauge(filling.len() as i64));
    }
}

fn gauge(value: i64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(value);
    gauge
}

fn found<T, E: Debug>(what: &str, result: Result<T, E>) -> Option<T> {
    result
        .inspect_err(|error| tracing::warn!("{what} cannot be counted: {error:?}"))
        .ok()
}
