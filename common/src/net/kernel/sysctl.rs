//! Settings under `/proc/sys/net`: of our own interfaces, and of a container that has come.
//!
//! No other setting of a host is ever left changed. Forwarding in particular is left to netavark, which enables
//! `net.ipv4.ip_forward` (and, for networks with IPv6, `net.ipv6.conf.all.forwarding`) when it sets up a
//! bridge network, and never disables it again: any host that has or had the container forwards already.
//! Disabling it later would cut off containers started since, enabling the IPv6 one would make the host
//! ignore router advertisements, and writing to `ip_forward` resets other settings too (the kernel's
//! Documentation/networking/ip-sysctl.rst).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::netns::{self, EnterError};

/// A setting could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {name} to {value}: {source}")]
pub struct SysctlError {
    name: String,
    value: String,
    source: io::Error,
}

/// Prepares a tunnel's interface. Call before the interface is up. The settings go with the
/// interface.
///
/// - `rp_filter=0`, or 2 (loose, RFC 3704) if `all` asks for a filter: what arrives through the tunnel
///   has the addresses of clients whose ordinary route is another interface, and of a container
///   whose bridge is gone. The greater of this value and that of `all` applies, so this works on hosts
///   with strict filtering too; there must then be some route to the source address.
/// - `forwarding=1`: for this interface, what netavark enables globally.
/// - `route_localnet=1`: connections of this host's own processes through `localhost` take the tunnel,
///   and their source address is not translated before their route is looked up. What comes in for
///   loopback addresses is dropped by [`crate::net::rules::tunnel`].
/// - `addr_gen_mode=1`: no link-local IPv6 address, hence no multicast chatter through the tunnel.
pub fn prepare_interface(interface: &str, ipv6: bool) -> Result<(), SysctlError> {
    for (name, value) in settings(interface, ipv6) {
        set(name, value)?;
    }
    Ok(())
}

/// Whether the interface still has the settings of [`prepare_interface`].
pub fn is_prepared(interface: &str, ipv6: bool) -> bool {
    settings(interface, ipv6).iter().all(|(name, value)| {
        let path = PathBuf::from("/proc/sys/net").join(name);
        fs::read_to_string(path).is_ok_and(|found| found.trim() == *value)
    })
}

fn settings(interface: &str, ipv6: bool) -> Vec<(String, &'static str)> {
    let rp_filter = if filters_reverse_path() { "2" } else { "0" };
    let of = |family: &str, name: &str| format!("{family}/conf/{interface}/{name}");
    let mut settings = vec![
        (of("ipv4", "rp_filter"), rp_filter),
        (of("ipv4", "forwarding"), "1"),
        (of("ipv4", "route_localnet"), "1"),
    ];
    if ipv6 {
        settings.push((of("ipv6", "addr_gen_mode"), "1"));
        settings.push((of("ipv6", "forwarding"), "1"));
    }
    settings
}

/// Runs `bring_up`, which brings an interface up, and restores `send_redirects` of `all`: the kernel's
/// WireGuard disables that when one of its interfaces comes up, and never enables it again.
pub fn keeping_redirects<T>(bring_up: impl FnOnce() -> T) -> Result<T, SysctlError> {
    let path = PathBuf::from("/proc/sys/net").join(REDIRECTS);
    let on = || fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1");
    let before = on();
    let done = bring_up();
    if before && !on() {
        set(REDIRECTS.to_owned(), "1")?;
    }
    Ok(done)
}

const REDIRECTS: &str = "ipv4/conf/all/send_redirects";

/// Whether packets whose source has no route are dropped on all interfaces.
pub fn filters_reverse_path() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter")
        .is_ok_and(|value| value.trim() != "0")
}

/// Whether the connection tracker sees what ports of a bridge send each other: only if the module
/// br_netfilter is loaded, as Docker and Kubernetes do.
pub fn bridges_are_tracked() -> bool {
    ["iptables", "ip6tables"].iter().all(|tables| {
        fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{tables}"))
            .is_ok_and(|value| value.trim() == "1")
    })
}

/// Whether new interfaces may have IPv6 addresses: false if the kernel has no IPv6 or an
/// administrator has disabled it (`net.ipv6.conf.default.disable_ipv6`, which a write to `all`
/// changes as well).
pub fn ipv6_enabled() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6")
        .is_ok_and(|value| value.trim() == "0")
}

fn set(name: String, value: &str) -> Result<(), SysctlError> {
    let path = PathBuf::from("/proc/sys/net").join(&name);
    fs::write(path, value).map_err(|source| SysctlError {
        name: format!("net/{name}"),
        value: value.to_owned(),
        source,
    })
}

/// Gives these parameters (sysctl(8)), of which only those of the network count, these values in the
/// network namespace at `netns`: a restored container does not get them from its runtime. They go with
/// the namespace.
pub fn set_inside(netns: &Path, parameters: &BTreeMap<String, String>) -> Result<(), InsideError> {
    netns::in_netns(netns, || {
        for (name, value) in of_network(parameters) {
            let known = below_net(name).ok_or_else(|| SysctlError {
                name: name.to_owned(),
                value: value.to_owned(),
                source: io::ErrorKind::InvalidInput.into(),
            })?;
            set(known, value)?;
        }
        Ok::<(), SysctlError>(())
    })??;
    Ok(())
}

/// Parameters of the network could not be set in another namespace.
#[derive(Debug, thiserror::Error)]
pub enum InsideError {
    /// The namespace is gone, or may not be entered.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// The kernel has no such parameter, or refuses the value.
    #[error(transparent)]
    Set(#[from] SysctlError),
}

/// Which of these parameters of the network this kernel does not have. Those of an interface count as
/// present if any interface has them.
pub fn unknown(parameters: &BTreeMap<String, String>) -> Vec<String> {
    let known = |name: &str| {
        let Some(path) = below_net(name) else {
            return false;
        };
        let mut parts: Vec<&str> = path.split('/').collect();
        if let [_, "conf" | "neigh", interface, ..] = parts.as_mut_slice() {
            *interface = "default";
        }
        PathBuf::from("/proc/sys/net")
            .join(parts.join("/"))
            .exists()
    };
    of_network(parameters)
        .map(|(name, _)| name.to_owned())
        .filter(|name| !known(name))
        .collect()
}

/// A container's other parameters are those of its IPC and UTS namespaces, which CRIU saves.
fn of_network(parameters: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    let all = parameters.iter();
    let mine = all.filter(|(name, _)| name.starts_with("net.") || name.starts_with("net/"));
    mine.map(|(name, value)| (name.as_str(), value.as_str()))
}

/// The parameter's path below `/proc/sys/net`. As in sysctl(8), whichever of `.` and `/` comes first
/// separates, and the other stands for a dot within a part.
fn below_net(name: &str) -> Option<String> {
    let rest = name.strip_prefix("net")?;
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = match rest.starts_with('/') {
        true => rest.to_owned(),
        false => rest.chars().map(swapped).collect(),
    };
    let path = path.strip_prefix('/')?;
    let inside = |part: &str| !matches!(part, "" | "." | "..");
    path.split('/').all(inside).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_below_net_only() {
        let cases = [
            (
                "net.ipv4.ip_local_port_range",
                Some("ipv4/ip_local_port_range"),
            ),
            (
                "net.ipv4.conf.eth0/7.rp_filter",
                Some("ipv4/conf/eth0.7/rp_filter"),
            ),
            (
                "net/ipv4/conf/eth0.7/rp_filter",
                Some("ipv4/conf/eth0.7/rp_filter"),
            ),
            ("net.", None),
            ("net/../kernel/hostname", None),
            ("net.//.kernel.hostname", None),
            ("kernel.hostname", None),
        ];
        for (name, path) in cases {
            assert_eq!(below_net(name).as_deref(), path, "{name}");
        }
    }

    #[test]
    fn an_interfaces_parameter_need_not_be_there_yet() {
        let parameters = [
            ("net.ipv4.conf.eth9.rp_filter", "0"),
            ("net.ipv4.no_such_thing", "0"),
            ("kernel.msgmax", "70000"),
        ];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(unknown(&parameters.into()), ["net.ipv4.no_such_thing"]);
    }
}
