//! Whether the firewalls of other programs let moved connections pass.
//!
//! What one netfilter table drops no other can accept, so a rule of ours would not help, and other
//! programs' rules are not ours to change. But preflight can say what is missing.
//!
//! At either host the tracker counts packets of moved connections as established, and most firewalls
//! let those pass. New connections that are sent after a container are new at both. Firewalls that drop
//! such packets are found by following a packet through their rules (`rules`). A condition that is not
//! understood here counts as one that may or may not be true.

mod iptables;
mod nft;
mod rules;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::process::Command;

use serde_json::Value;

use super::kernel::routes::{RouteError, Routes};
use super::kernel::sysctl;
use super::mark::Index;
use rules::{Fate, Netavark, Packet, Table};

/// What stands in the way of moved connections, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What was found.
    pub found: String,
    /// What to do.
    pub advice: String,
    /// Whether certainly nothing would pass; otherwise something may.
    pub certain: bool,
}

/// What part a host has in a migration.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// Moved connections go between the network and the tunnel.
    Source,
    /// They will go between the tunnel and the container, on these bridges.
    Destination(&'a [String]),
    /// The same, and the container's networks are there already.
    Staged(&'a [String]),
}

/// Finds what stands in the way of the connections of a container with these addresses; with `new`, also
/// of new connections that are sent after it. Changes nothing. What cannot be read is no obstacle. Blocks.
pub fn obstacles(part: Part<'_>, addresses: &[IpAddr], new: bool) -> Vec<Obstacle> {
    let tables = tables();
    let mut found = Vec::new();
    for address in addresses {
        for interface in near(part, address.is_ipv6()) {
            let ways = packets(part, *address, interface, new);
            for table in tables.iter().filter(|t| t.sees(*address)) {
                found.extend(judge(table, part, &ways));
            }
        }
    }
    found.extend(reverse_path(addresses));
    let all = std::mem::take(&mut found);
    for obstacle in all {
        if !found.contains(&obstacle) {
            found.push(obstacle);
        }
    }
    found
}

/// The interfaces other than the tunnel that packets take. `None` is an interface whose name is not known:
/// conditions on it may or may not be true.
fn near(part: Part<'_>, ipv6: bool) -> Vec<Option<String>> {
    let names = match part {
        Part::Source => uplinks(ipv6).unwrap_or_default(),
        Part::Destination(bridges) | Part::Staged(bridges) => bridges.to_vec(),
    };
    if names.is_empty() {
        return vec![None];
    }
    names.into_iter().map(Some).collect()
}

/// A packet of a connection in each direction; for a `new` one, the first packet and the reply.
fn packets(part: Part<'_>, container: IpAddr, near: Option<String>, new: bool) -> [Packet; 2] {
    let tunnel = Index::all().next().map(Index::interface);
    let (to, from) = match part {
        Part::Source => ((near.clone(), tunnel.clone()), (tunnel, near)),
        Part::Destination(_) | Part::Staged(_) => ((tunnel.clone(), near.clone()), (near, tunnel)),
    };
    [
        Packet {
            incoming: to.0,
            outgoing: to.1,
            container,
            to_container: true,
            new,
        },
        Packet {
            incoming: from.0,
            outgoing: from.1,
            container,
            to_container: false,
            new: false,
        },
    ]
}

/// What the table does to these packets, if that is an obstacle.
fn judge(table: &Table, part: Part<'_>, packets: &[Packet]) -> Option<Obstacle> {
    let netavark = match part {
        Part::Source => Netavark::Gone,
        Part::Destination(_) => Netavark::Coming,
        Part::Staged(_) => Netavark::There,
    };
    let (chain, fate) = packets
        .iter()
        .flat_map(|packet| table.fates(packet, netavark))
        .filter(|(_, fate)| *fate != Fate::Passes)
        .max_by_key(|(_, fate)| *fate)?;
    let coming = netavark == Netavark::Coming && table.iptables;
    let certain = fate == Fate::Dropped && !coming;
    Some(Obstacle {
        found: format!(
            "{} {} {} packets between the tunnel and other interfaces",
            table.name,
            chain,
            if certain { "drops" } else { "may drop" }
        ),
        advice: format!(
            "let moved connections pass: `{}`",
            table.remedy(&chain).join("` and `")
        ),
        certain,
    })
}

/// Both families' rules of all other programs, as far as they can be read.
fn tables() -> Vec<Table> {
    let ruleset = crate::net::rules::nft::ruleset().unwrap_or_default();
    parsed(&ruleset, |program| {
        let saved = Command::new(format!("{program}-save"))
            .args(["-t", "filter"])
            .output();
        let text = saved.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    })
}

fn parsed(ruleset: &str, saved_by: impl Fn(&str) -> String) -> Vec<Table> {
    let ruleset: Value = serde_json::from_str(ruleset).unwrap_or_default();
    let (mut tables, opaque) = nft::tables(&ruleset);
    // Only iptables-save shows the conditions of rules made through iptables.
    for (program, family) in [("iptables", "ip"), ("ip6tables", "ip6")] {
        if let Some(table) = iptables::table(program, &saved_by(program)) {
            tables.retain(|t| !(t.name == format!("{family} filter") && opaque.contains(&t.name)));
            tables.push(table);
        }
    }
    tables
}

/// What there is to say of these rules, printed by nft and by iptables-save, in any part.
#[cfg(feature = "fuzzing")]
pub(crate) fn judged(ruleset: &str, saved: &str) -> Vec<Obstacle> {
    let tables = parsed(ruleset, |_| saved.to_owned());
    let mut found = Vec::new();
    for address in [IpAddr::from([10, 88, 0, 5]), IpAddr::from([0xfd00; 8])] {
        for part in [Part::Source, Part::Destination(&[]), Part::Staged(&[])] {
            for near in [None, Some("eth0".to_owned())] {
                let ways = packets(part, address, near, true);
                let seen = tables.iter().filter(|table| table.sees(address));
                found.extend(seen.filter_map(|table| judge(table, part, &ways)));
            }
        }
    }
    found
}

/// The interfaces of the default routes of one family.
fn uplinks(ipv6: bool) -> Result<Vec<String>, RouteError> {
    Routes::open()?.uplinks(ipv6)
}

/// The kernel's own check of source addresses: if the host enables it on all interfaces, packets that come
/// through a tunnel are let in only if there is a route to their source.
fn reverse_path(addresses: &[IpAddr]) -> Option<Obstacle> {
    let routed = uplinks(false).map_or(true, |uplinks| !uplinks.is_empty());
    if routed || !sysctl::filters_reverse_path() || !addresses.iter().any(IpAddr::is_ipv4) {
        return None;
    }
    Some(Obstacle {
        found: "there is no default route, and packets from addresses without a route are dropped \
                (net.ipv4.conf.all.rp_filter)"
            .to_owned(),
        advice: "add a default route, or `sysctl -w net.ipv4.conf.all.rp_filter=0`".to_owned(),
        certain: true,
    })
}
