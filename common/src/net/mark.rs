//! The bits of a flow's connmark and of a packet's fwmark that name tunnels.
//!
//! A tunnel has an [`Index`] on each host, allotted by that host alone. A tracked flow's connmark
//! holds two of them, one per direction of the flow as conntrack sees it; `None` means that packets
//! of that direction go by ordinary routing.
//!
//! ```text
//! connmark  31..28   27..22          21..16             15..0
//!           foreign  reply tunnel    original tunnel    foreign
//! fwmark    31..22                   21..16             15..0
//!           foreign                  tunnel to take     foreign
//! ```
//!
//! Only those bits are read and written here: the others belong to other software (netavark's
//! 0x2000, Kubernetes' 0x4000 and 0x8000 among them).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bits of the fwmark that hold the index of the tunnel a packet takes; in the connmark, those of
/// the flow's original direction.
pub const FWMARK_MASK: u32 = 0x003f_0000;
/// All bits of the connmark that are ours.
pub const CONNMARK_MASK: u32 = 0x0fff_0000;

/// A direction of a flow, in conntrack's sense: the side that sent the first packet is the
/// original source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the flow's initiator.
    Original,
    /// Towards the flow's initiator.
    Reply,
}

impl Direction {
    /// Both directions.
    pub const BOTH: [Direction; 2] = [Direction::Original, Direction::Reply];

    const fn shift(self) -> u32 {
        match self {
            Direction::Original => 16,
            Direction::Reply => 22,
        }
    }

    /// The connmark's bits that hold this direction's tunnel.
    pub const fn mask(self) -> u32 {
        0x3f << self.shift()
    }
}

/// The number of a tunnel on this host, 1 to 63. Everything else that a tunnel needs on the host
/// follows from it, so a host only has to choose one number per tunnel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Index(u8);

impl Index {
    /// Every index, lowest first.
    pub fn all() -> impl Iterator<Item = Index> {
        (1..=63).map(Index)
    }

    /// The index as a number.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The name of the tunnel's interface.
    pub fn interface(self) -> String {
        format!("lmwg{}", self.0)
    }

    /// The UDP port the tunnel listens on: 51821 to 51883, a range that an administrator can open
    /// once and for all in a firewall.
    pub const fn port(self) -> u16 {
        51_820 + self.0 as u16
    }

    /// The index whose [`port`](Self::port) this is.
    pub fn from_port(port: u16) -> Option<Index> {
        let number = port.checked_sub(51_820)?;
        u8::try_from(number).ok()?.try_into().ok()
    }

    /// The routing table whose only way out is the tunnel.
    pub const fn table(self) -> u32 {
        21_000 + self.0 as u32
    }

    /// The priority of the `ip rule` that leads to the table: after the kernel's local table (0),
    /// before the tables of VPN software (5210 and up) and the main table (32766).
    pub const fn priority(self) -> u32 {
        1_000 + self.0 as u32
    }

    /// The fwmark (within [`FWMARK_MASK`]) of packets that take the tunnel.
    pub const fn fwmark(self) -> u32 {
        (self.0 as u32) << 16
    }
}

/// Not the number of a tunnel.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0} is not a tunnel index (1 to 63)")]
pub struct InvalidIndex(u8);

impl TryFrom<u8> for Index {
    type Error = InvalidIndex;

    fn try_from(number: u8) -> Result<Self, InvalidIndex> {
        match number {
            1..=63 => Ok(Index(number)),
            _ => Err(InvalidIndex(number)),
        }
    }
}

impl From<Index> for u8 {
    fn from(index: Index) -> u8 {
        index.0
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A connmark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(pub u32);

impl Mark {
    /// The tunnel that packets of this direction take.
    pub fn get(self, direction: Direction) -> Option<Index> {
        let number = (self.0 & direction.mask()) >> direction.shift();
        u8::try_from(number).ok()?.try_into().ok()
    }

    /// The same mark with this direction's tunnel replaced. Foreign bits and the other direction
    /// are kept.
    #[must_use]
    pub fn with(self, direction: Direction, tunnel: Option<Index>) -> Mark {
        let bits = tunnel.map_or(0, |index| u32::from(index.get()) << direction.shift());
        Mark(self.0 & !direction.mask() | bits)
    }

    /// Whether either direction takes this tunnel.
    pub fn names(self, tunnel: Index) -> bool {
        Direction::BOTH
            .into_iter()
            .any(|direction| self.get(direction) == Some(tunnel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(number: u8) -> Index {
        number.try_into().unwrap()
    }

    #[test]
    fn fields_are_where_the_rules_look() {
        assert_eq!(Direction::Original.mask(), FWMARK_MASK);
        assert_eq!(Direction::Reply.mask(), 0x0fc0_0000);
        assert_eq!(
            Direction::Original.mask() | Direction::Reply.mask(),
            CONNMARK_MASK
        );
        let mark = Mark(0).with(Direction::Original, Some(index(63)));
        assert_eq!(mark.0, index(63).fwmark());
    }

    #[test]
    fn foreign_bits_and_the_other_direction_survive() {
        for number in [1, 2, 31, 62, 63] {
            for foreign in [0, 0xf000_ffff, 0x2000, 0x8000_0001] {
                let mark = Mark(foreign)
                    .with(Direction::Original, Some(index(number)))
                    .with(Direction::Reply, Some(index(64 - number)));
                assert_eq!(mark.get(Direction::Original), Some(index(number)));
                assert_eq!(mark.get(Direction::Reply), Some(index(64 - number)));
                assert_eq!(mark.0 & !CONNMARK_MASK, foreign);
                let cleared = mark.with(Direction::Original, None);
                assert_eq!(cleared.get(Direction::Original), None);
                assert_eq!(cleared.get(Direction::Reply), Some(index(64 - number)));
                assert_eq!(cleared.with(Direction::Reply, None), Mark(foreign));
            }
        }
    }

    #[test]
    fn names_looks_at_both_directions() {
        let mark = Mark(0).with(Direction::Reply, Some(index(5)));
        assert!(mark.names(index(5)));
        assert!(!mark.names(index(1)));
        assert!(!Mark(0xf000_ffff).names(index(1)));
    }

    #[test]
    fn ports_and_indexes_correspond() {
        for index in Index::all() {
            assert_eq!(Index::from_port(index.port()), Some(index));
        }
        for port in [0, 51_820, 51_884, 65_535] {
            assert_eq!(Index::from_port(port), None);
        }
        assert!(Index::try_from(0).is_err());
        assert!(Index::try_from(64).is_err());
    }
}
