//! Finds out, without changing anything, whether a host's network can do what is needed.

use std::collections::BTreeMap;
use std::path::Path;

use conntrack::{Conntrack, Filter};

use super::in_use;
use crate::net::rules::nft;

/// Each feature with what is wrong with it, if anything is. Blocks.
pub fn problems() -> BTreeMap<String, Option<String>> {
    let conntrack = Conntrack::open().and_then(|mut table| table.list(Filter::default()));
    let tunnel = in_use::gather(&[])
        .map_err(|error| error.to_string())
        .and_then(|in_use| in_use.allot().map_err(|error| error.to_string()));
    [
        ("nftables", nft::ruleset().err().map(|e| e.to_string())),
        ("conntrack", conntrack.err().map(|e| e.to_string())),
        ("tunnel numbers and marks", tunnel.err()),
        ("WireGuard", wireguard()),
    ]
    .map(|(name, problem)| (name.to_owned(), problem))
    .into()
}

/// Kernel WireGuard needs nothing; the embedded one needs TUN devices.
fn wireguard() -> Option<String> {
    let in_kernel = Path::new("/sys/module/wireguard").exists();
    let tun = Path::new("/dev/net/tun").exists();
    (!in_kernel && !tun)
        .then(|| "neither WireGuard nor TUN: load the module `wireguard` or `tun`".to_owned())
}
