//! What this host uses already: everything that a new tunnel could collide with.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use serde_json::Value;

use super::agreement::InUse;
use crate::net::kernel::routes::{Facts, PolicyRule, RouteError, Routes};
use crate::net::kernel::sysctl;
use crate::net::mark::{CONNMARK_MASK, FWMARK_MASK, Index, Mark};
use crate::net::rules::nft;
use crate::net::rules::nft::FirewallError;

/// The host's state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum InUseError {
    /// Links, addresses, routes or rules.
    #[error(transparent)]
    Routes(#[from] RouteError),
    /// The firewall.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// Tracked connections.
    #[error("cannot list tracked connections: {0}")]
    Conntrack(#[from] conntrack::Error),
    /// Ports.
    #[error("cannot read {path}: {source}")]
    Ports {
        /// The file in /proc.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Reads what the namespace of the calling thread has in use. Changes nothing.
///
/// `recorded` are the indexes of tunnels on record, whether or not anything of them still exists.
pub fn gather(recorded: &[Index]) -> Result<InUse, InUseError> {
    let facts = Routes::open()?.facts()?;
    let ports = udp_ports()?;
    let marks = connmarks()?;
    let ruleset = nft::ruleset()?;
    let indexes = Index::all().filter_map(|index| {
        let reason = recorded
            .contains(&index)
            .then(|| format!("tunnel {index} exists"))
            .or_else(|| routing_reason(&facts, index))
            .or_else(|| {
                ports
                    .contains(&index.port())
                    .then(|| format!("UDP port {} is in use", index.port()))
            })
            .or_else(|| {
                marks
                    .iter()
                    .any(|mark| mark.names(index))
                    .then(|| format!("tracked connections are marked for tunnel {index}"))
            });
        reason.map(|reason| (index, reason))
    });
    Ok(InUse {
        indexes: indexes.collect(),
        mark_conflicts: mark_conflicts(&serde_json::from_str(&ruleset).unwrap_or_default()),
        ipv6: sysctl::ipv6_enabled(),
        prefixes: facts.prefixes,
    })
}

/// The marks of tracked connections that use a tunnel, or once did.
fn connmarks() -> Result<Vec<Mark>, InUseError> {
    let flows = conntrack::Conntrack::open()?.list(conntrack::Filter::default())?;
    let marks = flows.into_iter().map(|flow| Mark(flow.mark));
    Ok(marks.filter(|mark| mark.0 & CONNMARK_MASK != 0).collect())
}

fn routing_reason(facts: &Facts, index: Index) -> Option<String> {
    let interface = index.interface();
    if facts.interfaces.contains(&interface) {
        return Some(format!("interface {interface} exists"));
    }
    if let Some(route) = facts.tables.get(&index.table()) {
        return Some(format!(
            "routing table {} has a route to {route}",
            index.table()
        ));
    }
    let rule = facts.rules.iter().find(|rule| collides(rule, index))?;
    Some(format!(
        "the ip rule of priority {} (fwmark {:#x}/{:#x}, table {}) collides with tunnel {index}",
        rule.priority, rule.fwmark, rule.fwmask, rule.table
    ))
}

/// Whether somebody else's rule has our priority or table, or matches marks that ours would set. A
/// rule that requires our bits to be *zero* is no obstacle: ours comes first and takes every
/// packet that has one of them set.
fn collides(rule: &PolicyRule, index: Index) -> bool {
    let wanted = rule.fwmark & rule.fwmask & FWMARK_MASK;
    rule.priority == index.priority()
        || rule.table == index.table()
        || wanted != 0 && index.fwmark() & rule.fwmask == wanted
}

/// UDP ports in use, IPv4 and IPv6. `/proc/net` would show the namespace of the process's first
/// thread (proc(5)), not the calling thread's.
fn udp_ports() -> Result<BTreeSet<u16>, InUseError> {
    let mut ports = BTreeSet::new();
    for path in ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"] {
        match fs::read_to_string(path) {
            Ok(table) => ports.extend(table.lines().filter_map(local_port)),
            // No IPv6 in this kernel.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(InUseError::Ports { path, source }),
        }
    }
    Ok(ports)
}

/// The port in a line such as `  12: 0100007F:0035 00000000:0000 07 …`.
pub(crate) fn local_port(line: &str) -> Option<u16> {
    let local = line.split_whitespace().nth(1)?;
    u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
}

/// Rules of other software that overwrite our bits of a packet's mark or of a connmark.
///
/// Read from nft's JSON without a schema, because a ruleset may contain things that no schema knows.
/// Rules made through the legacy `iptables` extensions (`xt`) do not show what they set and are
/// ignored; those in common use (netavark, kube-proxy) set single low bits.
pub(crate) fn mark_conflicts(ruleset: &Value) -> Vec<String> {
    let mut conflicts = Vec::new();
    let objects = ruleset["nftables"].as_array().into_iter().flatten();
    for rule in objects.filter_map(|object| object.get("rule")) {
        if rule["table"].as_str().is_some_and(nft::is_ours) {
            continue;
        }
        for statement in rule["expr"].as_array().into_iter().flatten() {
            let Some(mangle) = statement.get("mangle") else {
                continue;
            };
            let (what, ours) = if mangle["key"]["meta"]["key"] == "mark" {
                ("packet mark", FWMARK_MASK)
            } else if mangle["key"]["ct"]["key"] == "mark" {
                ("connmark", CONNMARK_MASK)
            } else {
                continue;
            };
            let bits = overwritten(&mangle["key"], &mangle["value"]) & ours;
            if bits != 0 {
                let text = |field: &str| rule[field].as_str().unwrap_or("?").to_owned();
                conflicts.push(format!(
                    "table {} {} chain {} sets bits {bits:#x} of the {what}",
                    text("family"),
                    text("table"),
                    text("chain"),
                ));
            }
        }
    }
    conflicts.dedup();
    conflicts
}

/// The bits that assigning `value` to `key` can change: `key | 4` changes one.
fn overwritten(key: &Value, value: &Value) -> u32 {
    if value == key {
        return 0;
    }
    let operands = |name: &str| value.get(name)?.as_array().map(Vec::as_slice);
    let number = |value: &Value| value.as_u64().map(|number| number as u32);
    match (operands("|"), operands("^"), operands("&")) {
        (Some([left, right]), ..) | (_, Some([left, right]), _) => {
            number(right).map_or(u32::MAX, |bits| overwritten(key, left) | bits)
        }
        (.., Some([left, right])) => {
            number(right).map_or(u32::MAX, |bits| overwritten(key, left) | !bits)
        }
        _ => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn conflicts(table: &str, mangle: Value) -> usize {
        let rule = json!({"family": "inet", "table": table, "chain": "c", "expr": [
            {"counter": null}, {"mangle": mangle}]});
        mark_conflicts(&json!({"nftables": [{"metainfo": {}}, {"rule": rule}]})).len()
    }

    #[test]
    fn only_statements_that_touch_our_bits_conflict() {
        let meta = json!({"meta": {"key": "mark"}});
        let ct = json!({"ct": {"key": "mark"}});
        let or = |key: &Value, bits: u32| json!({"key": key, "value": {"|": [key, bits]}});
        // netavark and kube-proxy.
        assert_eq!(conflicts("netavark", or(&meta, 0x2000)), 0);
        assert_eq!(conflicts("kube-proxy", or(&meta, 0x4000)), 0);
        assert_eq!(conflicts("other", or(&meta, 0x4_0000)), 1);
        assert_eq!(conflicts("live_migration", or(&meta, 0x4_0000)), 0);
        assert_eq!(conflicts("live_migration_3", or(&meta, 0x4_0000)), 0);
        // Bits 22 to 27 are ours in the connmark only.
        assert_eq!(conflicts("other", or(&meta, 0x0080_0000)), 0);
        assert_eq!(conflicts("other", or(&ct, 0x0080_0000)), 1);
        let replaced = json!({"key": meta, "value": {"|": [{"&": [meta, 0xffff_ff00u32]}, 7]}});
        assert_eq!(conflicts("other", replaced), 0);
        let cleared = json!({"key": meta, "value": {"&": [meta, 0xff00_ffffu32]}});
        assert_eq!(conflicts("other", cleared), 1);
        assert_eq!(conflicts("other", json!({"key": meta, "value": 1})), 1);
        assert_eq!(conflicts("other", json!({"key": meta, "value": ct})), 1);
        let other = json!({"key": {"meta": {"key": "priority"}}, "value": 1});
        assert_eq!(conflicts("other", other), 0);
    }

    #[test]
    fn rules_that_want_our_bits_set_block_those_indexes() {
        let blocked = |fwmark, fwmask| {
            let rule = PolicyRule {
                priority: 5210,
                table: 254,
                fwmark,
                fwmask,
            };
            Index::all()
                .filter(|index| collides(&rule, *index))
                .map(Index::get)
                .collect::<Vec<_>>()
        };
        assert_eq!(blocked(0x8_0000, 0xff_0000), [8]);
        assert!(blocked(0xca6c, 0xffff_ffff).is_empty());
        assert!(blocked(0, 0xff_0000).is_empty());
        assert!(blocked(0, 0).is_empty());
        assert_eq!(blocked(0x20_0000, 0x20_0000).len(), 32);
    }

    #[test]
    fn rules_in_our_place_block_the_index() {
        let index = Index::try_from(7).unwrap();
        let rule = |priority, table| PolicyRule {
            priority,
            table,
            fwmark: 0,
            fwmask: 0,
        };
        assert!(collides(&rule(index.priority(), 254), index));
        assert!(collides(&rule(9, index.table()), index));
        assert!(!collides(&rule(0, 255), index));
    }

    #[test]
    fn ports_are_read_from_proc() {
        let line = "  12: 0100007F:CA6D 00000000:0000 07 00000000:00000000 00:00000000";
        assert_eq!(local_port(line), Some(51_821));
        assert_eq!(local_port("   sl  local_address rem_address   st"), None);
    }
}
