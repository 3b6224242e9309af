//! Converts flows to conntrack messages and back.
//!
//! netlink-packet-netfilter knows most attributes; the others are written and read here by their
//! numbers in linux/netfilter/nfnetlink_conntrack.h. All integers are big-endian.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLA_TYPE_MASK, NetlinkBuffer, NetlinkMessage,
    Nla, NlaBuffer, NlasIterator, parse_u8, parse_u16_be, parse_u32_be, parse_u64_be,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    conntrack::{
        ConntrackAttribute as Attribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP,
        ProtoTuple, Status as RawStatus, TCPFlags, Tuple as TupleAttribute,
    },
};

use crate::{
    flow::{Counters, DirectionCounters, Flow, MaskedMark, Status, Tcp, TcpDirection, TcpFlags},
    tuple::{Family, Key, Protocol, Tuple},
};

const CTA_NAT_SRC: u16 = 6;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ID: u16 = 12;
const CTA_NAT_DST: u16 = 13;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;

const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;

const CTA_NAT_V4_MINIP: u16 = 1;
const CTA_NAT_PROTO: u16 = 3;
const CTA_NAT_V6_MINIP: u16 = 4;
const CTA_PROTONAT_PORT_MIN: u16 = 1;

const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;

/// Asks for all entries, or those that the kernel is to select.
pub(crate) fn list(family: Option<Family>, mark: Option<MaskedMark>) -> NetfilterMessage {
    wrap(
        family,
        ConntrackMessage::Get(mark.map(mark_attributes).into_iter().flatten().collect()),
    )
}

/// Asks for one entry.
pub(crate) fn get(key: &Key) -> NetfilterMessage {
    wrap(
        Some(key.tuple.family()),
        ConntrackMessage::Get(key_attributes(key)),
    )
}

/// Deletes one entry. Without a tuple the kernel would flush the table; a [`Key`] always has one.
pub(crate) fn delete(key: &Key) -> NetfilterMessage {
    wrap(
        Some(key.tuple.family()),
        ConntrackMessage::Delete(key_attributes(key)),
    )
}

/// Changes bits of an entry's mark.
pub(crate) fn set_mark(key: &Key, mark: MaskedMark) -> NetfilterMessage {
    let mut attributes = key_attributes(key);
    attributes.extend(mark_attributes(mark));
    wrap(Some(key.tuple.family()), ConntrackMessage::New(attributes))
}

/// Turns off window checks for a TCP connection, in both directions.
pub(crate) fn disable_window_checks(key: &Key) -> NetfilterMessage {
    let mut attributes = key_attributes(key);
    attributes.push(Attribute::CtaProtoInfo(vec![ProtoInfo::TCP(vec![
        ProtoInfoTCP::OriginalFlags(flags_to_set(TcpFlags::BE_LIBERAL)),
        ProtoInfoTCP::ReplyFlags(flags_to_set(TcpFlags::BE_LIBERAL)),
    ])]));
    wrap(Some(key.tuple.family()), ConntrackMessage::New(attributes))
}

/// Changes an entry's timeout.
pub(crate) fn set_timeout(key: &Key, timeout: Duration) -> NetfilterMessage {
    let mut attributes = key_attributes(key);
    attributes.push(timeout_attribute(timeout));
    wrap(Some(key.tuple.family()), ConntrackMessage::New(attributes))
}

/// Creates an entry, or says why the flow cannot become one.
pub(crate) fn insert(flow: &Flow) -> Result<NetfilterMessage, &'static str> {
    let timeout = flow.timeout.ok_or("a flow to insert needs a timeout")?;
    let addresses = [
        flow.original.source,
        flow.original.destination,
        flow.reply.source,
        flow.reply.destination,
    ];
    if addresses
        .iter()
        .any(|address| address.is_ipv4() != addresses[0].is_ipv4())
    {
        return Err("the flow mixes IPv4 and IPv6");
    }

    // The other bits are the kernel's own: some it ignores (NAT), others make it refuse
    // (ctnetlink_change_status). Without CONFIRMED it refuses as well.
    let status = (flow.status & (Status::SEEN_REPLY | Status::ASSURED)) | Status::CONFIRMED;
    let mut attributes = key_attributes(&flow.into());
    attributes.extend([
        // The kernel computes the reply tuple of a translated flow itself, from the attributes
        // below. Given the translated tuple, it would find nothing to translate and set no NAT bit.
        Attribute::CtaTupleReply(tuple_attributes(&flow.original.inverse())),
        Attribute::CtaStatus(RawStatus::from_bits_retain(status.bits())),
        timeout_attribute(timeout),
        Attribute::CtaMark(flow.mark),
    ]);
    if flow.is_snat() || flow.is_dnat() {
        attributes.extend(translation_attributes(flow));
    }
    if flow.original.protocol == Protocol::Tcp {
        attributes.push(tcp_attribute(&flow.tcp.unwrap_or_else(Tcp::established)));
    }
    Ok(wrap(
        Some(flow.original.family()),
        ConntrackMessage::New(attributes),
    ))
}

fn wrap(family: Option<Family>, message: ConntrackMessage) -> NetfilterMessage {
    let family = match family {
        None => NetfilterProtoFamily::Unspec,
        Some(Family::V4) => NetfilterProtoFamily::IPv4,
        Some(Family::V6) => NetfilterProtoFamily::IPv6,
    };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

fn key_attributes(key: &Key) -> Vec<Attribute> {
    let mut attributes = vec![Attribute::CtaTupleOrig(tuple_attributes(&key.tuple))];
    if key.zone != 0 {
        attributes.push(other(CTA_ZONE, key.zone.to_be_bytes()));
    }
    attributes
}

fn mark_attributes(mark: MaskedMark) -> [Attribute; 2] {
    [
        Attribute::CtaMark(mark.value()),
        other(CTA_MARK_MASK, mark.mask().to_be_bytes()),
    ]
}

fn timeout_attribute(timeout: Duration) -> Attribute {
    Attribute::CtaTimeout(timeout.as_secs().try_into().unwrap_or(u32::MAX))
}

fn tuple_attributes(tuple: &Tuple) -> Vec<TupleAttribute> {
    let mut transport = vec![ProtoTuple::Protocol(tuple.protocol.number().into())];
    let mut query = |kinds: [u16; 3], kind: u8, code: u8, id: u16| {
        transport.extend([
            ProtoTuple::Other(nla(kinds[0], kind.to_be_bytes())),
            ProtoTuple::Other(nla(kinds[1], code.to_be_bytes())),
            ProtoTuple::Other(nla(kinds[2], id.to_be_bytes())),
        ]);
    };
    match tuple.protocol {
        Protocol::Icmp { kind, code, id } => query(
            [CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE, CTA_PROTO_ICMP_ID],
            kind,
            code,
            id,
        ),
        Protocol::Icmpv6 { kind, code, id } => query(
            [
                CTA_PROTO_ICMPV6_TYPE,
                CTA_PROTO_ICMPV6_CODE,
                CTA_PROTO_ICMPV6_ID,
            ],
            kind,
            code,
            id,
        ),
        // Protocols without ports ignore the ports.
        Protocol::Tcp | Protocol::Udp | Protocol::Other(_) => transport.extend([
            ProtoTuple::SourcePort(tuple.source.port()),
            ProtoTuple::DestinationPort(tuple.destination.port()),
        ]),
    }
    vec![
        TupleAttribute::Ip(vec![
            IPTuple::SourceAddress(tuple.source.ip()),
            IPTuple::DestinationAddress(tuple.destination.ip()),
        ]),
        TupleAttribute::Proto(transport),
    ]
}

/// Both ends are always given, including their ports. Otherwise the kernel keeps the address of the
/// untranslated end, but may choose another port for it if two flows would collide
/// (`__nf_nat_alloc_null_binding`); given both, a collision is an error instead.
fn translation_attributes(flow: &Flow) -> [Attribute; 2] {
    let mut source = flow.reply.destination;
    let mut destination = flow.reply.source;
    if let (Some(before), Some(after)) = (flow.original.protocol.id(), flow.reply.protocol.id()) {
        // The destination is translated first, while the identifier is still the original one.
        destination.set_port(before);
        source.set_port(after);
    }
    [
        nat_attribute(CTA_NAT_SRC, source),
        nat_attribute(CTA_NAT_DST, destination),
    ]
}

fn nat_attribute(kind: u16, to: SocketAddr) -> Attribute {
    // The maxima default to the minima.
    let address = match to.ip() {
        IpAddr::V4(address) => nla(CTA_NAT_V4_MINIP, address.octets()),
        IpAddr::V6(address) => nla(CTA_NAT_V6_MINIP, address.octets()),
    };
    let port = nla(CTA_PROTONAT_PORT_MIN, to.port().to_be_bytes());
    Attribute::Other(nest(kind, &[address, nest(CTA_NAT_PROTO, &[port])]))
}

fn flags_to_set(flags: TcpFlags) -> TCPFlags {
    // The mask says which flags to set: all that are given. The type has no constructor; parsing two
    // bytes cannot fail.
    TCPFlags::parse(&[flags.bits(), flags.bits()]).expect("two bytes are TCP flags")
}

fn tcp_attribute(tcp: &Tcp) -> Attribute {
    let flags = |direction: TcpDirection| flags_to_set(direction.flags | TcpFlags::PICKED_UP);
    Attribute::CtaProtoInfo(vec![ProtoInfo::TCP(vec![
        ProtoInfoTCP::State(tcp.state.into()),
        ProtoInfoTCP::OriginalFlags(flags(tcp.original)),
        ProtoInfoTCP::ReplyFlags(flags(tcp.reply)),
        // The kernel takes the scales only after the flags, and only both at once
        // (nlattr_to_tcp in nf_conntrack_proto_tcp.c).
        ProtoInfoTCP::OriginalWindowScale(tcp.original.window_scale),
        ProtoInfoTCP::ReplyWindowScale(tcp.reply.window_scale),
    ])])
}

fn other<const N: usize>(kind: u16, value: [u8; N]) -> Attribute {
    Attribute::Other(nla(kind, value))
}

fn nla<const N: usize>(kind: u16, value: [u8; N]) -> DefaultNla {
    DefaultNla::new(kind, value.to_vec())
}

fn nest(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

/// The messages in one datagram. A broken message yields an error in its place; after one whose
/// length cannot be trusted, nothing follows.
pub(crate) fn split(
    mut datagram: &[u8],
) -> impl Iterator<Item = Result<NetlinkMessage<NetfilterMessage>, DecodeError>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let length = match NetlinkBuffer::new_checked(datagram) {
            Ok(message) => message.length() as usize,
            Err(error) => {
                datagram = &[];
                return Some(Err(error));
            }
        };
        let (message, rest) = datagram.split_at(length);
        // Messages are aligned to four bytes, except that the last may end early.
        datagram = rest
            .get(length.next_multiple_of(4) - length..)
            .unwrap_or(&[]);
        Some(NetlinkMessage::deserialize(message))
    })
}

/// Reads an entry.
pub(crate) fn flow(attributes: &[Attribute]) -> Result<Flow, DecodeError> {
    let (mut original, mut reply) = (None, None);
    let (mut timeout, mut tcp, mut id) = (None, None, None);
    let mut status = Status::empty();
    let mut counters: Option<Counters> = None;
    // The kernel leaves these out if they are 0 (ctnetlink_dump_mark, ctnetlink_dump_zone_id).
    let (mut mark, mut zone) = (0, 0);
    for attribute in attributes {
        match attribute {
            Attribute::CtaTupleOrig(attributes) => original = Some(tuple(attributes)?),
            Attribute::CtaTupleReply(attributes) => reply = Some(tuple(attributes)?),
            Attribute::CtaStatus(bits) => status = Status::from_bits_retain(bits.bits()),
            Attribute::CtaTimeout(seconds) => {
                timeout = Some(Duration::from_secs((*seconds).into()));
            }
            Attribute::CtaMark(value) => mark = *value,
            Attribute::CtaProtoInfo(attributes) => tcp = tcp_info(attributes),
            Attribute::Other(nla) => {
                let value = value(nla);
                match nla.kind() & NLA_TYPE_MASK {
                    CTA_ID => id = Some(parse_u32_be(&value)?),
                    CTA_ZONE => zone = parse_u16_be(&value)?,
                    CTA_COUNTERS_ORIG => {
                        counters.get_or_insert_default().original = direction_counters(&value)?;
                    }
                    CTA_COUNTERS_REPLY => {
                        counters.get_or_insert_default().reply = direction_counters(&value)?;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    Ok(Flow {
        original: original.ok_or("an entry without its original tuple")?,
        reply: reply.ok_or("an entry without its reply tuple")?,
        mark,
        timeout,
        status,
        tcp,
        zone,
        id,
        counters,
    })
}

fn tuple(attributes: &[TupleAttribute]) -> Result<Tuple, DecodeError> {
    let mut source = None;
    let mut destination = None;
    let mut number = None;
    let (mut source_port, mut destination_port) = (0, 0);
    let (mut kind, mut code, mut id) = (0, 0, 0);
    for attribute in attributes {
        match attribute {
            TupleAttribute::Ip(attributes) => {
                for attribute in attributes {
                    match attribute {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            TupleAttribute::Proto(attributes) => {
                for attribute in attributes {
                    match attribute {
                        ProtoTuple::Protocol(protocol) => number = Some(u8::from(*protocol)),
                        ProtoTuple::SourcePort(port) => source_port = *port,
                        ProtoTuple::DestinationPort(port) => destination_port = *port,
                        ProtoTuple::Other(nla) => {
                            let value = value(nla);
                            match nla.kind() & NLA_TYPE_MASK {
                                CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => {
                                    kind = parse_u8(&value)?;
                                }
                                CTA_PROTO_ICMP_CODE | CTA_PROTO_ICMPV6_CODE => {
                                    code = parse_u8(&value)?;
                                }
                                CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => {
                                    id = parse_u16_be(&value)?;
                                }
                                _ => {}
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let source = source.ok_or("a tuple without its source address")?;
    let destination = destination.ok_or("a tuple without its destination address")?;
    let protocol = match number.ok_or("a tuple without its protocol")? {
        1 => Protocol::Icmp { kind, code, id },
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        58 => Protocol::Icmpv6 { kind, code, id },
        other => Protocol::Other(other),
    };
    Ok(Tuple {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
        protocol,
    })
}

fn tcp_info(attributes: &[ProtoInfo]) -> Option<Tcp> {
    attributes.iter().find_map(|attribute| match attribute {
        ProtoInfo::TCP(attributes) => {
            let direction = TcpDirection {
                flags: TcpFlags::empty(),
                window_scale: 0,
            };
            let mut tcp = Tcp {
                state: 0.into(),
                original: direction,
                reply: direction,
            };
            for attribute in attributes {
                match attribute {
                    ProtoInfoTCP::State(state) => tcp.state = (*state).into(),
                    ProtoInfoTCP::OriginalWindowScale(scale) => tcp.original.window_scale = *scale,
                    ProtoInfoTCP::ReplyWindowScale(scale) => tcp.reply.window_scale = *scale,
                    ProtoInfoTCP::OriginalFlags(flags) => {
                        tcp.original.flags = TcpFlags::from_bits_retain(flags.flags);
                    }
                    ProtoInfoTCP::ReplyFlags(flags) => {
                        tcp.reply.flags = TcpFlags::from_bits_retain(flags.flags);
                    }
                    _ => {}
                }
            }
            Some(tcp)
        }
        _ => None,
    })
}

fn direction_counters(nested: &[u8]) -> Result<DirectionCounters, DecodeError> {
    let mut counters = DirectionCounters::default();
    for nla in NlasIterator::new(nested) {
        let nla: NlaBuffer<&[u8]> = nla?;
        match nla.kind() {
            CTA_COUNTERS_PACKETS => counters.packets = parse_u64_be(nla.value())?,
            CTA_COUNTERS_BYTES => counters.bytes = parse_u64_be(nla.value())?,
            _ => {}
        }
    }
    Ok(counters)
}

fn value(nla: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; nla.value_len()];
    nla.emit_value(&mut value);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::NetlinkPayload;
    use netlink_packet_netfilter::NetfilterMessageInner;

    fn tuples() -> Vec<Tuple> {
        let v4 = ("192.0.2.9:4000", "198.51.100.1:80");
        let v6 = ("[2001:db8::9]:4000", "[2001:db8::1]:80");
        let tuple = |(source, destination): (&str, &str), protocol| Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
        };
        let query = ("192.0.2.9:0", "198.51.100.1:0");
        let query6 = ("[2001:db8::9]:0", "[2001:db8::1]:0");
        let (code, id) = (0, 77);
        vec![
            tuple(v4, Protocol::Tcp),
            tuple(v6, Protocol::Tcp),
            tuple(v4, Protocol::Udp),
            tuple(v6, Protocol::Udp),
            tuple(v4, Protocol::Other(132)),
            tuple(query, Protocol::Icmp { kind: 8, code, id }),
            tuple(
                query6,
                Protocol::Icmpv6 {
                    kind: 128,
                    code,
                    id,
                },
            ),
        ]
    }

    fn bytes(message: NetfilterMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn attributes(datagram: &[u8]) -> Vec<Attribute> {
        let mut messages: Vec<_> = split(datagram).collect();
        assert_eq!(messages.len(), 1);
        match messages.remove(0).unwrap().into_parts().1 {
            NetlinkPayload::InnerMessage(NetfilterMessage {
                inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                ..
            }) => attributes,
            other => panic!("not an entry: {other:?}"),
        }
    }

    fn kinds(attributes: &[Attribute]) -> Vec<u16> {
        attributes
            .iter()
            .map(|attribute| attribute.kind() & NLA_TYPE_MASK)
            .collect()
    }

    #[test]
    fn an_identity_flow_comes_back_as_it_was() {
        for original in tuples() {
            let mut sent = Flow::identity(original, Duration::from_secs(120));
            sent.mark = 0x1_0002;
            sent.zone = 3;
            let attributes = attributes(&bytes(insert(&sent).unwrap()));
            assert_eq!(flow(&attributes).unwrap(), sent);
            assert!(!kinds(&attributes).contains(&CTA_NAT_SRC));
            assert!(!kinds(&attributes).contains(&CTA_NAT_DST));
        }
    }

    #[test]
    fn a_translated_flow_is_sent_untranslated_with_its_translation() {
        for original in tuples() {
            let mut sent = Flow::identity(original, Duration::from_secs(120));
            sent.reply.source.set_port(8080);
            let attributes = attributes(&bytes(insert(&sent).unwrap()));
            assert_eq!(flow(&attributes).unwrap().reply, original.inverse());
            assert!(kinds(&attributes).contains(&CTA_NAT_SRC));
            assert!(kinds(&attributes).contains(&CTA_NAT_DST));
        }
    }

    #[test]
    fn what_the_kernel_would_refuse_is_not_sent() {
        let original = tuples()[0];
        let mut sent = Flow::identity(original, Duration::MAX);
        sent.status = Status::all() - Status::CONFIRMED;
        let read = flow(&attributes(&bytes(insert(&sent).unwrap()))).unwrap();
        assert_eq!(
            read.status,
            Status::CONFIRMED | Status::SEEN_REPLY | Status::ASSURED
        );
        assert_eq!(read.timeout, Some(Duration::from_secs(u32::MAX.into())));

        sent.timeout = None;
        assert!(insert(&sent).is_err());
        sent.timeout = Some(Duration::ZERO);
        sent.reply.source = tuples()[1].source;
        assert!(insert(&sent).is_err());
    }

    #[test]
    fn a_tcp_flow_is_sent_liberal() {
        let mut sent = Flow::identity(tuples()[0], Duration::from_secs(120));
        sent.tcp = None;
        let read = flow(&attributes(&bytes(insert(&sent).unwrap()))).unwrap();
        assert_eq!(read.tcp, Some(Tcp::established()));

        let direction = TcpDirection {
            flags: TcpFlags::CLOSE_INIT,
            window_scale: 7,
        };
        sent.tcp = Some(Tcp {
            state: crate::TcpState::FinWait,
            original: direction,
            reply: direction,
        });
        let tcp = flow(&attributes(&bytes(insert(&sent).unwrap())))
            .unwrap()
            .tcp
            .unwrap();
        assert_eq!(tcp.state, crate::TcpState::FinWait);
        assert_eq!(tcp.reply.window_scale, 7);
        assert_eq!(
            tcp.original.flags,
            TcpFlags::CLOSE_INIT | TcpFlags::PICKED_UP
        );
    }

    #[test]
    fn counters_and_the_id_are_read() {
        let mut sent = attributes(&bytes(
            insert(&Flow::identity(tuples()[0], Duration::ZERO)).unwrap(),
        ));
        let counters = |packets: u64, bytes: u64| {
            [
                nla(CTA_COUNTERS_PACKETS, packets.to_be_bytes()),
                nla(CTA_COUNTERS_BYTES, bytes.to_be_bytes()),
            ]
        };
        sent.extend([
            Attribute::Other(nest(CTA_COUNTERS_ORIG, &counters(1, 60))),
            Attribute::Other(nest(CTA_COUNTERS_REPLY, &counters(2, 120))),
            other(CTA_ID, 99u32.to_be_bytes()),
        ]);
        let read = flow(&sent).unwrap();
        assert_eq!(read.id, Some(99));
        assert_eq!(read.counters.unwrap().original.bytes, 60);
        assert_eq!(read.counters.unwrap().reply.packets, 2);
    }

    #[test]
    fn several_messages_of_one_datagram_are_told_apart() {
        let mut datagram = Vec::new();
        for tuple in tuples() {
            datagram.extend(bytes(get(&tuple.into())));
        }
        assert_eq!(
            split(&datagram).filter(Result::is_ok).count(),
            tuples().len()
        );

        datagram.truncate(datagram.len() - 1);
        let messages: Vec<_> = split(&datagram).collect();
        assert_eq!(messages.len(), tuples().len());
        assert!(messages.last().unwrap().is_err());
    }

    #[test]
    fn broken_messages_are_errors() {
        // Xorshift with a fixed seed, so that a failure can be reproduced.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        let mut translated = Flow::identity(tuples()[0], Duration::from_secs(1));
        translated.reply.source.set_port(8080);
        let mut models = vec![bytes(insert(&translated).unwrap()), Vec::new()];
        for tuple in tuples() {
            let flow = Flow::identity(tuple, Duration::from_secs(1));
            models.push(bytes(insert(&flow).unwrap()));
        }
        let mut understood = 0;
        for _ in 0..50_000 {
            let mut datagram = models[random() % models.len()].clone();
            for _ in 0..=random() % 4 {
                // The length and kind of the message (its first six bytes) are mostly left alone.
                match (random() % 3, datagram.len()) {
                    (0, length @ 7..) => datagram.truncate(6 + random() % (length - 6)),
                    (1, length @ 7..) => datagram[6 + random() % (length - 6)] = random() as u8,
                    (_, length) if length > 0 => datagram[random() % length] = random() as u8,
                    _ => datagram.extend((0..random() % 64).map(|_| 0)),
                }
            }
            for message in split(&datagram).flatten() {
                if let NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                    ..
                }) = message.into_parts().1
                {
                    understood += usize::from(flow(&attributes).is_ok());
                }
            }
        }
        assert!(understood > 1000, "the test never reaches the decoder");

        assert!(flow(&[]).is_err());
        let short = other(CTA_ID, [1, 2]);
        assert!(flow(&[short]).is_err());
    }
}
