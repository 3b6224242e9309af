//! What crates/fuzz feeds with bytes and could not reach otherwise. Only with the feature `fuzzing`.

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner, conntrack::ConntrackMessage,
};

use crate::{Flow, message};

/// The entries in a datagram from the kernel that are understood.
pub fn flows(datagram: &[u8]) -> Vec<Flow> {
    message::split(datagram)
        .filter_map(|message| match message.ok()?.into_parts().1 {
            NetlinkPayload::InnerMessage(NetfilterMessage {
                inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                ..
            }) => message::flow(&attributes).ok(),
            _ => None,
        })
        .collect()
}

/// The message that would create this entry, if it can be one.
pub fn insertion(flow: &Flow) -> Option<Vec<u8>> {
    let mut message = NetlinkMessage::from(message::insert(flow).ok()?);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    Some(bytes)
}
