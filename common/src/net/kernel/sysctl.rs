//! Settings of our own interfaces under `/proc/sys/net`.
//!
//! No other setting is ever left changed. Forwarding in particular is left to netavark, which enables
//! `net.ipv4.ip_forward` (and, for networks with IPv6, `net.ipv6.conf.all.forwarding`) when it sets up a
//! bridge network, and never disables it again: any host that has or had the container forwards already.
//! Disabling it later would cut off containers started since, enabling the IPv6 one would make the host
//! ignore router advertisements, and writing to `ip_forward` resets other settings too (the kernel's
//! Documentation/networking/ip-sysctl.rst).

use std::fs;
use std::io;
use std::path::PathBuf;

/// A setting could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {name} to {value}: {source}")]
pub struct SysctlError {
    name: String,
    value: &'static str,
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

fn set(name: String, value: &'static str) -> Result<(), SysctlError> {
    let path = PathBuf::from("/proc/sys/net").join(&name);
    fs::write(path, value).map_err(|source| SysctlError {
        name: format!("net/{name}"),
        value,
        source,
    })
}
