use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::flow::Flow;

/// One direction of a flow, as its packets look in that direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tuple {
    /// Where the packets come from. The port is 0 for protocols without ports.
    pub source: SocketAddr,
    /// Where the packets go, in the same address family as the source.
    pub destination: SocketAddr,
    /// The transport protocol.
    pub protocol: Protocol,
}

impl Tuple {
    /// TCP from `source` to `destination`.
    pub fn tcp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source,
            destination,
            protocol: Protocol::Tcp,
        }
    }

    /// UDP from `source` to `destination`.
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source,
            destination,
            protocol: Protocol::Udp,
        }
    }

    /// The same flow seen from the other end, if nothing translates it.
    pub fn inverse(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol.inverse(),
        }
    }

    /// The address family, taken from the source.
    pub fn family(&self) -> Family {
        match self.source.ip() {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} -> {}",
            self.protocol, self.source, self.destination
        )
    }
}

/// An address family of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The transport protocol of a tuple, with whatever else identifies a flow of that protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// An ICMP query, such as an echo request.
    Icmp {
        /// The message type of this direction.
        kind: u8,
        /// The message code.
        code: u8,
        /// The identifier, which plays the role of the source port.
        id: u16,
    },
    /// An ICMPv6 query, such as an echo request.
    Icmpv6 {
        /// The message type of this direction.
        kind: u8,
        /// The message code.
        code: u8,
        /// The identifier, which plays the role of the source port.
        id: u16,
    },
    /// Any other IP protocol, by its number.
    Other(u8),
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(&self) -> u8 {
        match self {
            Self::Icmp { .. } => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmpv6 { .. } => 58,
            Self::Other(number) => *number,
        }
    }

    /// The identifier of an ICMP query.
    pub(crate) fn id(&self) -> Option<u16> {
        match self {
            Self::Icmp { id, .. } | Self::Icmpv6 { id, .. } => Some(*id),
            _ => None,
        }
    }

    /// Only queries have an answer; the pairs are those of the kernel's
    /// nf_conntrack_proto_icmp.c and nf_conntrack_proto_icmpv6.c.
    fn inverse(self) -> Self {
        match self {
            Self::Icmp { kind, code, id } => Self::Icmp {
                kind: match kind {
                    8 => 0,
                    0 => 8,
                    13 => 14,
                    14 => 13,
                    15 => 16,
                    16 => 15,
                    17 => 18,
                    18 => 17,
                    other => other,
                },
                code,
                id,
            },
            Self::Icmpv6 { kind, code, id } => Self::Icmpv6 {
                kind: match kind {
                    128 => 129,
                    129 => 128,
                    139 => 140,
                    140 => 139,
                    other => other,
                },
                code,
                id,
            },
            other => other,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp { kind, code, id } => write!(f, "icmp type {kind} code {code} id {id}"),
            Self::Icmpv6 { kind, code, id } => write!(f, "icmpv6 type {kind} code {code} id {id}"),
            Self::Other(number) => write!(f, "protocol {number}"),
        }
    }
}

/// What identifies an entry: one of its tuples and its zone.
///
/// Either tuple will do, because the kernel indexes every entry under both
/// (`nf_conntrack_find_get`). A tuple on its own means the default zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The original or the reply tuple.
    pub tuple: Tuple,
    /// The conntrack zone; 0 is the default.
    pub zone: u16,
}

impl From<Tuple> for Key {
    fn from(tuple: Tuple) -> Self {
        Self { tuple, zone: 0 }
    }
}

impl From<&Flow> for Key {
    fn from(flow: &Flow) -> Self {
        Self {
            tuple: flow.original,
            zone: flow.zone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inverse_swaps_the_ends_and_answers_the_query() {
        let tuple = Tuple::tcp(
            "10.0.0.1:1000".parse().unwrap(),
            "10.0.0.2:80".parse().unwrap(),
        );
        assert_eq!(tuple.inverse().source, tuple.destination);
        assert_eq!(tuple.inverse().destination, tuple.source);
        assert_eq!(tuple.inverse().inverse(), tuple);

        let echo = |kind| Protocol::Icmp {
            kind,
            code: 0,
            id: 7,
        };
        assert_eq!(echo(8).inverse(), echo(0));
        for kind in 0..=u8::MAX {
            assert_eq!(echo(kind).inverse().inverse(), echo(kind));
            let v6 = Protocol::Icmpv6 {
                kind,
                code: 0,
                id: 7,
            };
            assert_eq!(v6.inverse().inverse(), v6);
        }
    }

    #[test]
    fn a_tuple_reads_well_and_survives_json() {
        let tuple = Tuple::udp(
            "[fd00::1]:53".parse().unwrap(),
            "[fd00::2]:5353".parse().unwrap(),
        );
        assert_eq!(tuple.to_string(), "udp [fd00::1]:53 -> [fd00::2]:5353");
        let json = serde_json::to_string(&tuple).unwrap();
        assert_eq!(serde_json::from_str::<Tuple>(&json).unwrap(), tuple);
    }
}
