//! Published ports as ranges: `-p 10000-25000:10000-25000` is one, not 15,001.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::names;

/// Most ranges that a container may publish; a message has room for more.
pub const MOST_RANGES: usize = 4096;

/// Most ports in all of them together: all of two protocols at two addresses.
const MOST_PORTS: usize = 4 << 16;

/// A published port or one of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Address bound on the host; unspecified for all.
    pub host_address: Option<IpAddr>,
    /// Port on the host.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    #[serde(deserialize_with = "names::protocol")]
    pub protocol: String,
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PortRange::begin(self).fmt(f)
    }
}

/// Ports that follow each other, outside and inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// See [`PublishedPort`].
    pub host_address: Option<IpAddr>,
    /// The first and the last on the host.
    pub host_ports: [u16; 2],
    /// The first in the container.
    pub container_port: u16,
    /// See [`PublishedPort`].
    #[serde(deserialize_with = "names::protocol")]
    pub protocol: String,
}

impl PortRange {
    fn begin(port: &PublishedPort) -> Self {
        PortRange {
            host_address: port.host_address,
            host_ports: [port.host_port; 2],
            container_port: port.container_port,
            protocol: port.protocol.clone(),
        }
    }

    /// Adds the port if it comes next.
    fn add(&mut self, port: &PublishedPort) -> bool {
        let [first, last] = self.host_ports;
        let inside = u32::from(self.container_port) + u32::from(last - first) + 1;
        let next = self.host_address == port.host_address
            && self.protocol == port.protocol
            && u32::from(last) + 1 == u32::from(port.host_port)
            && inside == u32::from(port.container_port);
        if next {
            self.host_ports[1] = port.host_port;
        }
        next
    }

    /// How many; none if it is no range.
    fn count(&self) -> Option<usize> {
        let [first, last] = self.host_ports;
        let more = last.checked_sub(first)?;
        self.container_port.checked_add(more)?;
        Some(usize::from(more) + 1)
    }

    fn ports(self) -> impl Iterator<Item = PublishedPort> {
        let [first, last] = self.host_ports;
        (first..=last).map(move |host_port| PublishedPort {
            host_address: self.host_address,
            host_port,
            container_port: self.container_port + (host_port - first),
            protocol: self.protocol.clone(),
        })
    }
}

/// As few ranges as the ports' order allows.
pub fn ranges(ports: &[PublishedPort]) -> Vec<PortRange> {
    let mut ranges: Vec<PortRange> = Vec::new();
    for port in ports {
        if !ranges.last_mut().is_some_and(|range| range.add(port)) {
            ranges.push(PortRange::begin(port));
        }
    }
    ranges
}

/// Writes ports as ranges.
pub(super) fn serialize<S: Serializer>(
    ports: &[PublishedPort],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    ranges(ports).serialize(serializer)
}

/// Reads what [`serialize`] has written. Few bytes can name many ports, so these are limited.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<PublishedPort>, D::Error> {
    let ranges = Vec::<PortRange>::deserialize(deserializer)?;
    let mut counts = ranges.iter().map(PortRange::count);
    let total = counts.try_fold(0, |total: usize, count| Some(total + count?));
    match total {
        None => Err(D::Error::custom("ports that are no range")),
        Some(total) if total > MOST_PORTS => Err(D::Error::custom(format!(
            "{total} published ports are too many"
        ))),
        Some(_) => Ok(ranges.into_iter().flat_map(PortRange::ports).collect()),
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        let [first, last] = self.host_ports;
        let inside = self.container_port;
        match last - first {
            0 => write!(f, "{first}->{inside}/{}", self.protocol),
            more => write!(
                f,
                "{first}-{last}->{inside}-{}/{}",
                u32::from(inside) + u32::from(more),
                self.protocol
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::MAX_FRAME_BYTES;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Facts {
        #[serde(with = "super")]
        ports: Vec<PublishedPort>,
    }

    fn port(host_port: u16, container_port: u16) -> PublishedPort {
        PublishedPort {
            host_address: None,
            host_port,
            container_port,
            protocol: "udp".into(),
        }
    }

    #[test]
    fn many_ports_fit_in_a_message() {
        let facts = Facts {
            ports: (10_000..=25_000).map(|n| port(n, n)).collect(),
        };
        let text = serde_json::to_string(&facts).unwrap();
        assert!(text.len() < MAX_FRAME_BYTES / 100, "{}", text.len());
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
        let text: Vec<_> = ranges(&facts.ports)
            .iter()
            .map(PortRange::to_string)
            .collect();
        assert_eq!(text, ["10000-25000->10000-25000/udp"]);
    }

    #[test]
    fn only_what_follows_is_joined() {
        let mut other = port(83, 83);
        other.protocol = "tcp".into();
        let ports = [
            port(80, 90),
            port(81, 91),
            port(82, 93),
            other,
            port(65_535, 65_535),
        ];
        let text: Vec<_> = ranges(&ports).iter().map(PortRange::to_string).collect();
        assert_eq!(
            text,
            [
                "80-81->90-91/udp",
                "82->93/udp",
                "83->83/tcp",
                "65535->65535/udp"
            ]
        );
    }

    #[test]
    fn a_message_of_endless_ports_is_refused() {
        let read = |first, last, inside, times| {
            let range = serde_json::json!({"host_address": null, "host_ports": [first, last],
                "container_port": inside, "protocol": "tcp"});
            serde_json::from_value::<Facts>(serde_json::json!({"ports": vec![range; times]}))
        };
        assert!(read(0, 65_535, 0, 4).is_ok());
        assert!(
            read(0, 65_535, 0, 5)
                .unwrap_err()
                .to_string()
                .contains("too many")
        );
        assert!(read(2, 1, 1, 1).is_err());
        assert!(read(1, 10, 65_530, 1).is_err());
    }
}
