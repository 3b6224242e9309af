//! The networks that a tunnel may have. The other host names them, and they become addresses and routes of
//! this one, so nothing else can be had as a value: one that is read from a message or a file is checked.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The private ranges of RFC 1918, largest first, then the shared one of RFC 6598. Not link-local
/// 169.254.0.0/16: clouds keep their metadata services there.
const POOLS: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
];
/// Candidates tried in each pool: soon enough a pool that is in use as a whole is given up.
const PROBES: usize = 512;

/// One of the two ends that share a subnet, by its place in [`super::agreement::Agreement::ends`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    Second,
}

impl Place {
    pub(crate) fn other(self) -> Self {
        match self {
            Place::First => Place::Second,
            Place::Second => Place::First,
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Place::First => 0,
            Place::Second => 1,
        }
    }
}

/// A network that no tunnel has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no network of a tunnel, which is a private /30 or a unique local /126")]
pub struct NotASubnet(String);

/// A /30 of a private range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Ipv4Net", into = "Ipv4Net")]
pub struct Subnet4(Ipv4Net);

/// A /126 of unique local addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Ipv6Net", into = "Ipv6Net")]
pub struct Subnet6(Ipv6Net);

impl TryFrom<Ipv4Net> for Subnet4 {
    type Error = NotASubnet;

    fn try_from(net: Ipv4Net) -> Result<Self, NotASubnet> {
        let pools = POOLS.map(|(base, length)| Ipv4Net::new(base, length).expect("a length"));
        let private = pools.iter().any(|pool| pool.contains(&net));
        match net.prefix_len() == 30 && net == net.trunc() && private {
            true => Ok(Subnet4(net)),
            false => Err(NotASubnet(net.to_string())),
        }
    }
}

impl TryFrom<Ipv6Net> for Subnet6 {
    type Error = NotASubnet;

    fn try_from(net: Ipv6Net) -> Result<Self, NotASubnet> {
        let unique_local =
            Ipv6Net::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 8).expect("a length");
        match net.prefix_len() == 126 && net == net.trunc() && unique_local.contains(&net) {
            true => Ok(Subnet6(net)),
            false => Err(NotASubnet(net.to_string())),
        }
    }
}

impl From<Subnet4> for Ipv4Net {
    fn from(subnet: Subnet4) -> Self {
        subnet.0
    }
}

impl From<Subnet6> for Ipv6Net {
    fn from(subnet: Subnet6) -> Self {
        subnet.0
    }
}

impl fmt::Display for Subnet4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Subnet6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Subnet4 {
    /// The first or the second address after the subnet's own.
    pub(crate) fn host(self, place: Place) -> IpAddr {
        Ipv4Addr::from(u32::from(self.0.network()) + 1 + place.index() as u32).into()
    }

    /// Those to try, in an order that follows from `seed`.
    pub(super) fn candidates(seed: &str) -> impl Iterator<Item = Self> {
        POOLS.into_iter().flat_map(move |(base, length)| {
            let mut random = stream(seed, &base.to_string());
            (0..PROBES).map(move |_| {
                let mut bytes = [0; 4];
                random.fill(&mut bytes);
                let offset = u32::from_be_bytes(bytes) >> length & !3;
                let net = Ipv4Net::new((u32::from(base) + offset).into(), 30);
                Subnet4(net.expect("30 is a prefix length"))
            })
        })
    }
}

impl Subnet6 {
    /// The first or the second address after the subnet's own.
    pub(crate) fn host(self, place: Place) -> IpAddr {
        Ipv6Addr::from(u128::from(self.0.network()) + 1 + place.index() as u128).into()
    }

    /// Those to try, in an order that follows from `seed`: fd00::/8 (RFC 4193) with random bits.
    pub(super) fn candidates(seed: &str) -> impl Iterator<Item = Self> {
        let mut random = stream(seed, "fd00::/8");
        (0..PROBES).map(move |_| {
            let mut bytes = [0; 16];
            random.fill(&mut bytes);
            bytes[0] = 0xfd;
            bytes[15] &= !3;
            Subnet6(Ipv6Net::new(bytes.into(), 126).expect("126 is a prefix length"))
        })
    }
}

fn stream(seed: &str, pool: &str) -> blake3::OutputReader {
    let mut hasher = blake3::Hasher::new_derive_key("live-migration tunnel subnet");
    hasher.update(seed.as_bytes()).update(pool.as_bytes());
    hasher.finalize_xof()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_else_can_be_read() {
        for net in [
            "128.0.0.0/1",
            "10.0.0.0/8",
            "10.1.2.0/29",
            "10.1.2.1/30",
            "10.1.2.0/31",
            "192.0.2.0/30",
            "169.254.169.252/30",
            "127.0.0.0/30",
            "0.0.0.0/0",
            "255.255.255.255/32",
        ] {
            let text = serde_json::to_string(net).unwrap();
            let error = serde_json::from_str::<Subnet4>(&text).unwrap_err();
            assert!(
                error.to_string().contains("no network of a tunnel"),
                "{error}"
            );
        }
        for net in [
            "::/1",
            "fd00::/8",
            "fd00::1/126",
            "2001:db8::/126",
            "fe80::/126",
            "fd00::/64",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
        ] {
            let text = serde_json::to_string(net).unwrap();
            assert!(serde_json::from_str::<Subnet6>(&text).is_err(), "{net}");
        }
    }

    #[test]
    fn all_candidates_can_be_read() {
        for subnet in Subnet4::candidates("seed") {
            assert_eq!(Subnet4::try_from(Ipv4Net::from(subnet)), Ok(subnet));
        }
        for subnet in Subnet6::candidates("seed") {
            assert_eq!(Subnet6::try_from(Ipv6Net::from(subnet)), Ok(subnet));
        }
    }
}
