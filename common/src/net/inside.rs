//! What is set up inside a container's network namespace that Podman did not make there: by the
//! container's own programs, which with `NET_ADMIN` may, or by somebody who entered it. A restored
//! container gets a new namespace from Podman, in which none of this is.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use ipnet::IpNet;
use serde_json::Value;

use crate::net::kernel::netns;
use crate::net::kernel::routes::{Contents, Link, Route, RouteError, Routes};
use crate::net::packets::quarantine;
use crate::net::rules::nft;

/// What Podman makes in the namespace of a container.
#[derive(Debug, Clone, Default)]
pub struct Ordinary {
    /// Hardware addresses of its interfaces, as text: `62:eb:ed:78:07:d3`.
    pub hardware: BTreeSet<String>,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The routers of its networks.
    pub routers: BTreeSet<IpAddr>,
    /// Those of the routers that are in a network whose containers have a default route.
    pub default_routers: BTreeSet<IpAddr>,
    /// Destinations of the routes that its networks have been given (`podman network create --route`).
    pub routes: BTreeSet<IpNet>,
}

/// Interfaces that the kernel puts into each new namespace once the tunnel's module is loaded
/// (`net.core.fb_tunnels_only_for_init_net`).
const FALLBACK_TUNNELS: [&str; 9] = [
    "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0",
];

/// The main routing table, and the kernel's own.
const MAIN: u32 = 254;
const LOCAL: u32 = 255;

/// What there is in the network namespace at `netns` besides the ordinary, and what is missing of that,
/// in words. What could not be looked at is named as well. Blocks.
pub fn look(netns: &Path, ordinary: &Ordinary) -> Vec<String> {
    let looked = netns::in_netns(netns, || {
        let mut found = match Routes::open().and_then(|routes| routes.contents()) {
            Ok(contents) => differences(&contents, ordinary),
            Err(error) => vec![format!("what cannot be seen ({error})")],
        };
        match nft::ruleset() {
            Ok(ruleset) => found.extend(tables(&ruleset)),
            Err(error) => found.push(format!("firewall rules that cannot be seen ({error})")),
        }
        found.extend(["iptables", "ip6tables"].into_iter().filter_map(legacy));
        found
    });
    looked.unwrap_or_else(|error| vec![format!("what cannot be seen ({error})")])
}

/// The interfaces of the IPv4 default routes in the network namespace at `netns`, the preferred one first. None if that
/// cannot be seen, which [`look`] names. Blocks.
pub fn default_interfaces(netns: &Path) -> Vec<String> {
    let look = || Routes::open().and_then(|routes| routes.default_interfaces());
    let looked = netns::in_netns(netns, look);
    looked.map_or_else(|_| Vec::new(), Result::unwrap_or_default)
}

/// Puts the IPv4 default routes in the network namespace at `netns` into the order of these interfaces: Podman makes
/// one for each network, in any order. Goes away with the namespace. Blocks.
///
/// # Errors
/// If the kernel refuses it, in words.
pub fn order_default_routes(netns: &Path, interfaces: &[String]) -> Result<(), OrderError> {
    netns::in_netns(netns, || {
        let ordered = Routes::open().and_then(|routes| routes.order_default_routes(interfaces));
        ordered.map_err(OrderError::from)
    })?
}

/// The default routes cannot be put into their order.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The network namespace cannot be entered.
    #[error(transparent)]
    Enter(#[from] netns::EnterError),
    /// The kernel refuses it.
    #[error(transparent)]
    Routes(#[from] RouteError),
}

fn differences(contents: &Contents, ordinary: &Ordinary) -> Vec<String> {
    let mut found = Vec::new();
    let podmans = |link: &Link| ordinary.hardware.contains(&hardware(link));
    for link in &contents.links {
        let fallback = !link.up && FALLBACK_TUNNELS.contains(&link.name.as_str());
        if link.name != "lo" && !podmans(link) && !fallback {
            let kind = link.kind.as_deref().unwrap_or("unknown kind");
            found.push(format!("interface {} ({kind})", link.name));
        }
    }
    let found_here: BTreeSet<String> = contents.links.iter().map(hardware).collect();
    let absent = ordinary.hardware.difference(&found_here);
    found.extend(absent.map(|hardware| format!("no interface with the address {hardware}")));
    for address in &contents.addresses {
        let ip = address.net.addr();
        let by_itself = !address.permanent || is_link_local(ip) || is_own_loopback(address.net);
        if !by_itself && !ordinary.addresses.contains(&ip) {
            found.push(format!("address {}", address.net));
        }
    }
    let there: BTreeSet<IpAddr> = contents.addresses.iter().map(|a| a.net.addr()).collect();
    let absent = ordinary.addresses.difference(&there);
    found.extend(absent.map(|address| format!("no address {address}")));
    let routes = contents.routes.iter();
    let others = routes.filter(|route| !is_ordinary(route, ordinary));
    found.extend(others.map(describe));
    for ipv6 in [false, true] {
        let expected = ordinary.default_routers.iter().any(|r| r.is_ipv6() == ipv6);
        let mut routes = contents.routes.iter();
        if expected && !routes.any(|r| r.ipv6 == ipv6 && r.to.is_none() && r.table == MAIN) {
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            found.push(format!("no default route for {family}"));
        }
    }
    let rules = contents.rules.iter();
    found.extend(rules.map(|rule| format!("rule {} for table {}", rule.priority, rule.table)));
    found
}

fn hardware(link: &Link) -> String {
    let bytes = link.hardware.iter().map(|byte| format!("{byte:02x}"));
    bytes.collect::<Vec<_>>().join(":")
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The two that a loopback interface is given when it comes up.
fn is_own_loopback(net: IpNet) -> bool {
    let (address, length) = (net.addr(), net.prefix_len());
    (address == Ipv4Addr::LOCALHOST && length == 8)
        || (address == Ipv6Addr::LOCALHOST && length == 128)
}

fn is_ordinary(route: &Route, ordinary: &Ordinary) -> bool {
    if route.table == LOCAL && route.to.is_some_and(|to| is_link_local(to.addr())) {
        return true;
    }
    let known = match route.to {
        None => route.via.is_none_or(|via| ordinary.routers.contains(&via)),
        Some(to) => ordinary.routes.contains(&to),
    };
    route.table == MAIN && route.fixed && route.unicast && known
}

fn describe(route: &Route) -> String {
    let to = route.to.map_or("default".to_owned(), |to| to.to_string());
    let how = match (route.via, route.unicast) {
        (Some(via), _) => format!(" via {via}"),
        (None, true) => String::new(),
        (None, false) => " (packets are dropped)".to_owned(),
    };
    match route.table {
        MAIN => format!("route {to}{how}"),
        table => format!("route {to}{how} in table {table}"),
    }
}

/// Tables of nftables that do something, in `nft`'s JSON.
fn tables(ruleset: &str) -> Vec<String> {
    let ruleset: Value = serde_json::from_str(ruleset).unwrap_or_default();
    let objects = ruleset["nftables"].as_array();
    let mut found = BTreeSet::new();
    for object in objects.into_iter().flatten() {
        let (of, acts) = match (&object["rule"], &object["chain"]) {
            (rule, _) if rule.is_object() => (rule, true),
            (_, chain) if chain.is_object() => (chain, chain["policy"] == "drop"),
            _ => continue,
        };
        let (family, table) = (of["family"].as_str(), of["table"].as_str());
        let (Some(family), Some(table)) = (family, table) else {
            continue;
        };
        if acts && table != quarantine::TABLE {
            found.insert(format!("nftables table {family} {table}"));
        }
    }
    found.into_iter().collect()
}

/// Rules that a kernel keeps for the old `iptables`, which `nft` does not show. Listing them makes the
/// tables, so a table alone says nothing.
fn legacy(program: &str) -> Option<String> {
    let names = match program {
        "iptables" => "ip_tables_names",
        _ => "ip6_tables_names",
    };
    let names = std::fs::read_to_string(format!("/proc/thread-self/net/{names}")).ok()?;
    if names.trim().is_empty() {
        return None;
    }
    let saved = Command::new(format!("{program}-legacy-save")).output();
    let saved = saved.ok().filter(|output| output.status.success());
    match saved {
        Some(output) if !acts(&String::from_utf8_lossy(&output.stdout)) => None,
        _ => Some(format!("{program} rules")),
    }
}

/// Whether anything in the output of iptables-save(8) does something.
fn acts(saved: &str) -> bool {
    saved
        .lines()
        .any(|line| line.starts_with("-A ") || (line.starts_with(':') && line.contains(" DROP ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::kernel::routes::{Address, Rule};

    fn ordinary() -> Ordinary {
        Ordinary {
            hardware: ["02:00:00:00:00:05".to_owned()].into(),
            addresses: ["10.88.0.5".parse().unwrap()].into(),
            routers: ["10.88.0.1".parse().unwrap()].into(),
            default_routers: ["10.88.0.1".parse().unwrap()].into(),
            routes: ["10.9.0.0/24".parse().unwrap()].into(),
        }
    }

    fn address(net: &str) -> Address {
        Address {
            link: 2,
            net: net.parse().unwrap(),
            permanent: true,
        }
    }

    fn route(to: Option<&str>, via: Option<&str>) -> Route {
        Route {
            ipv6: false,
            to: to.map(|to| to.parse().unwrap()),
            via: via.map(|via| via.parse().unwrap()),
            unicast: true,
            table: MAIN,
            fixed: true,
        }
    }

    fn contents() -> Contents {
        let link = |number, name: &str, hardware: [u8; 6], up| Link {
            number,
            name: name.to_owned(),
            kind: None,
            hardware: hardware.to_vec(),
            up,
        };
        let mut from_router = address("fd00::7/64");
        from_router.permanent = false;
        Contents {
            links: vec![
                link(1, "lo", [0; 6], true),
                link(2, "eth0", [2, 0, 0, 0, 0, 5], true),
                link(3, "sit0", [0; 6], false),
            ],
            addresses: vec![
                address("127.0.0.1/8"),
                address("::1/128"),
                address("10.88.0.5/16"),
                address("fe80::5/64"),
                from_router,
            ],
            routes: vec![
                route(None, Some("10.88.0.1")),
                route(Some("10.9.0.0/24"), Some("10.88.0.9")),
            ],
            rules: vec![],
        }
    }

    #[test]
    fn what_podman_makes_is_ordinary() {
        assert!(differences(&contents(), &ordinary()).is_empty());
        assert!(differences(&Contents::default(), &Ordinary::default()).is_empty());
    }

    #[test]
    fn each_difference_is_named() {
        type Change = fn(&mut Contents);
        let cases: [(&str, Change); 12] = [
            ("interface wg0 (wireguard)", |c| {
                c.links.push(Link {
                    name: "wg0".into(),
                    kind: Some("wireguard".into()),
                    ..Link::default()
                });
            }),
            ("interface sit0 (unknown kind)", |c| c.links[2].up = true),
            ("no interface with the address 02:00:00:00:00:05", |c| {
                c.links.remove(1);
            }),
            ("address 127.0.0.2/8", |c| {
                c.addresses.push(address("127.0.0.2/8"))
            }),
            ("address 10.88.0.77/16", |c| {
                c.addresses.push(address("10.88.0.77/16"))
            }),
            ("no address 10.88.0.5", |c| {
                c.addresses.remove(2);
            }),
            ("route 192.0.2.0/24 via 10.88.0.1", |c| {
                c.routes
                    .push(route(Some("192.0.2.0/24"), Some("10.88.0.1")));
            }),
            ("route default via 10.88.0.9", |c| {
                c.routes.push(route(None, Some("10.88.0.9")))
            }),
            ("no default route for IPv4", |c| {
                c.routes.remove(0);
            }),
            ("route default (packets are dropped)", |c| {
                c.routes.push(Route {
                    unicast: false,
                    ..route(None, None)
                });
            }),
            ("route default via 10.88.0.1 in table 51820", |c| {
                c.routes.push(Route {
                    table: 51820,
                    ..route(None, Some("10.88.0.1"))
                });
            }),
            ("rule 100 for table 51820", |c| {
                c.rules.push(Rule {
                    priority: 100,
                    table: 51820,
                });
            }),
        ];
        for (named, change) in cases {
            let mut changed = contents();
            change(&mut changed);
            assert_eq!(differences(&changed, &ordinary()), [named]);
        }
    }

    #[test]
    fn tables_that_do_nothing_are_ordinary() {
        let ruleset = r#"{"nftables":[{"metainfo":{}},
            {"table":{"family":"ip","name":"filter"}},
            {"chain":{"family":"ip","table":"filter","name":"INPUT","policy":"accept"}},
            {"rule":{"family":"inet","table":"live_migration_quarantine","chain":"output"}},
            {"rule":{"family":"inet","table":"killswitch","chain":"o"}},
            {"rule":{"family":"inet","table":"killswitch","chain":"o"}},
            {"chain":{"family":"ip6","table":"filter","name":"INPUT","policy":"drop"}}]}"#;
        assert_eq!(
            tables(ruleset),
            [
                "nftables table inet killswitch",
                "nftables table ip6 filter"
            ]
        );
    }

    #[test]
    fn a_table_that_was_only_looked_at_is_ordinary() {
        assert!(!acts(
            "*filter\n:INPUT ACCEPT [0:0]\n:mine - [0:0]\nCOMMIT\n"
        ));
        assert!(acts("*filter\n:INPUT DROP [0:0]\nCOMMIT\n"));
        assert!(acts(
            "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j RETURN\nCOMMIT\n"
        ));
    }
}
