use std::time::Duration;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::tuple::{Protocol, Tuple};

/// An entry of the table.
///
/// The tuples are the *true* ones, as packets look on the wire: for a translated flow the reply
/// tuple is not the inverse of the original. So a flow listed on one host can be inserted on
/// another unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Packets of the direction that opened the flow, before any translation.
    pub original: Tuple,
    /// Packets of the answering direction, before their translation is undone.
    pub reply: Tuple,
    /// The connection's mark.
    pub mark: u32,
    /// Time left until the entry is dropped if no packet comes, in whole seconds. Absent for an
    /// offloaded flow.
    pub timeout: Option<Duration>,
    /// What the kernel has seen and done.
    pub status: Status,
    /// State of the TCP tracker, for TCP.
    pub tcp: Option<Tcp>,
    /// The zone of both directions; 0 is the default. Zones of a single direction are not read.
    pub zone: u16,
    /// The kernel's identifier, constant while the entry lives. It tells an entry from a later one
    /// with the same tuples. It means nothing on another host and is not sent.
    pub id: Option<u32>,
    /// Traffic so far, if `net.netfilter.nf_conntrack_acct` was on when the flow began.
    pub counters: Option<Counters>,
}

impl Flow {
    /// An established flow that is not translated: the reply is the original's inverse.
    pub fn identity(original: Tuple, timeout: Duration) -> Self {
        Self {
            original,
            reply: original.inverse(),
            mark: 0,
            timeout: Some(timeout),
            status: Status::CONFIRMED | Status::SEEN_REPLY | Status::ASSURED,
            tcp: (original.protocol == Protocol::Tcp).then(Tcp::established),
            zone: 0,
            id: None,
            counters: None,
        }
    }

    /// Whether the source of the original direction is rewritten (SNAT, masquerade).
    pub fn is_snat(&self) -> bool {
        self.reply.destination != self.original.source
            || self.reply.protocol.id() != self.original.protocol.id()
    }

    /// Whether the destination of the original direction is rewritten (DNAT, published ports).
    pub fn is_dnat(&self) -> bool {
        self.reply.source != self.original.destination
    }
}

/// A mark, or some of its bits: either a change to make or a condition to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MaskedMark {
    value: u32,
    mask: u32,
}

impl MaskedMark {
    /// The bits of `mask` only; bits of `value` outside it are dropped. (In an update the kernel
    /// would *flip* those, and in a filter it would match nothing: `ctnetlink_change_mark`,
    /// `ctnetlink_filter_match` in nf_conntrack_netlink.c.)
    pub fn masked(value: u32, mask: u32) -> Self {
        Self {
            value: value & mask,
            mask,
        }
    }

    /// The bits' values.
    pub fn value(&self) -> u32 {
        self.value
    }

    /// Which bits are meant.
    pub fn mask(&self) -> u32 {
        self.mask
    }
}

bitflags! {
    /// What the kernel has seen of a flow and done to it (`enum ip_conntrack_status` in
    /// linux/netfilter/nf_conntrack_common.h).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub struct Status: u32 {
        /// Opened because another flow announced it.
        const EXPECTED = 1;
        /// Packets of both directions were seen; rules for new flows no longer apply.
        const SEEN_REPLY = 1 << 1;
        /// Not to be dropped early when the table is full.
        const ASSURED = 1 << 2;
        /// In the table.
        const CONFIRMED = 1 << 3;
        /// The original direction's source is rewritten.
        const SRC_NAT = 1 << 4;
        /// The original direction's destination is rewritten.
        const DST_NAT = 1 << 5;
        /// TCP sequence numbers are adjusted.
        const SEQ_ADJUST = 1 << 6;
        /// It has been decided whether to rewrite the source.
        const SRC_NAT_DONE = 1 << 7;
        /// It has been decided whether to rewrite the destination.
        const DST_NAT_DONE = 1 << 8;
        /// Removed from the table.
        const DYING = 1 << 9;
        /// The timeout is not renewed by packets.
        const FIXED_TIMEOUT = 1 << 10;
        /// Handled by a flow table, bypassing the tracker.
        const OFFLOAD = 1 << 14;
        // The kernel adds bits over time; unknown ones are kept.
        const _ = !0;
    }
}

/// The TCP tracker's view of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tcp {
    /// Where in its life the connection is.
    pub state: TcpState,
    /// The end that sends the original direction.
    pub original: TcpDirection,
    /// The end that sends the reply direction.
    pub reply: TcpDirection,
}

impl Tcp {
    /// An established connection about which nothing else is known.
    pub fn established() -> Self {
        let direction = TcpDirection {
            flags: TcpFlags::PICKED_UP,
            window_scale: 0,
        };
        Self {
            state: TcpState::Established,
            original: direction,
            reply: direction,
        }
    }
}

/// One end of a tracked TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TcpDirection {
    /// What this end agreed to, and how strictly it is checked.
    pub flags: TcpFlags,
    /// The shift applied to the windows this end announces.
    pub window_scale: u8,
}

bitflags! {
    /// Flags of one end (`IP_CT_TCP_FLAG_*` in linux/netfilter/nf_conntrack_tcp.h).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub struct TcpFlags: u8 {
        /// Window scaling was agreed on.
        const WINDOW_SCALE = 0x01;
        /// Selective acknowledgements were agreed on.
        const SACK_PERM = 0x02;
        /// Has sent a FIN.
        const CLOSE_INIT = 0x04;
        /// Segments outside the window are not considered invalid.
        const BE_LIBERAL = 0x08;
        // The kernel adds bits over time; unknown ones are kept.
        const _ = !0;
    }
}

impl TcpFlags {
    /// What an inserted connection needs: the tracker does not know its windows, so it would call
    /// an early retransmission invalid, and rules that drop invalid packets would drop it.
    pub const PICKED_UP: Self = Self::WINDOW_SCALE
        .union(Self::SACK_PERM)
        .union(Self::BE_LIBERAL);
}

/// State of a tracked TCP connection (`enum tcp_conntrack`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names of the TCP states say it")]
pub enum TcpState {
    None,
    SynSent,
    SynRecv,
    Established,
    FinWait,
    CloseWait,
    LastAck,
    TimeWait,
    Close,
    /// Both ends sent a SYN.
    SynSent2,
    /// A state this crate does not know.
    Other(u8),
}

impl From<u8> for TcpState {
    fn from(value: u8) -> Self {
        match value {
            0 => Self::None,
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            other => Self::Other(other),
        }
    }
}

impl From<TcpState> for u8 {
    fn from(state: TcpState) -> Self {
        match state {
            TcpState::None => 0,
            TcpState::SynSent => 1,
            TcpState::SynRecv => 2,
            TcpState::Established => 3,
            TcpState::FinWait => 4,
            TcpState::CloseWait => 5,
            TcpState::LastAck => 6,
            TcpState::TimeWait => 7,
            TcpState::Close => 8,
            TcpState::SynSent2 => 9,
            TcpState::Other(other) => other,
        }
    }
}

/// Traffic of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Of the original direction.
    pub original: DirectionCounters,
    /// Of the reply direction.
    pub reply: DirectionCounters,
}

/// Traffic of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DirectionCounters {
    /// Packets.
    pub packets: u64,
    /// Bytes of these packets, IP headers included.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translation_is_seen_in_the_tuples() {
        let original = Tuple::tcp(
            "192.0.2.9:4000".parse().unwrap(),
            "192.0.2.1:80".parse().unwrap(),
        );
        let mut flow = Flow::identity(original, Duration::from_secs(60));
        assert!(!flow.is_snat() && !flow.is_dnat());
        flow.reply.source = "10.88.0.2:8080".parse().unwrap();
        assert!(!flow.is_snat() && flow.is_dnat());
        flow.reply.destination.set_port(4001);
        assert!(flow.is_snat() && flow.is_dnat());
    }

    #[test]
    fn a_mark_keeps_to_its_mask() {
        let mark = MaskedMark::masked(0xffff_1234, 0x0000_ff00);
        assert_eq!((mark.value(), mark.mask()), (0x1200, 0xff00));
    }

    #[test]
    fn tcp_states_keep_their_numbers() {
        for value in 0..=u8::MAX {
            assert_eq!(u8::from(TcpState::from(value)), value);
        }
    }

    #[test]
    fn a_flow_survives_json() {
        let original = Tuple::tcp(
            "192.0.2.9:4000".parse().unwrap(),
            "192.0.2.1:80".parse().unwrap(),
        );
        let mut flow = Flow::identity(original, Duration::from_secs(60));
        flow.status |= Status::from_bits_retain(1 << 30);
        let json = serde_json::to_string(&flow).unwrap();
        assert_eq!(serde_json::from_str::<Flow>(&json).unwrap(), flow);
    }
}
