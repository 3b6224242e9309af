//! The options of sockets that CRIU does not keep, or not for all kinds (`dump_socket_opts` in
//! criu/sockets.c, `dump_ip_opts` in criu/sk-inet.c, `dump_tcp_opts` in criu/sk-tcp.c). Not here: what changes by
//! itself (TCP_QUICKACK, SO_INCOMING_CPU, IP_MTU), what belongs to the state of a connection, which CRIU keeps
//! (TCP_TIMESTAMP, TCP_WINDOW_CLAMP), and what cannot be read (keys of TCP-MD5, programs that choose among
//! sockets of one port).

use super::Kind;

/// What an option's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// At most so many bytes, as the kernel gives them.
    Bytes(usize),
    /// The number of an interface in the socket's network namespace.
    Interface,
    /// The same, in the order of bytes of a network.
    InterfaceInNetworkOrder,
}

/// Of which sockets of its protocol an option is what a program has set. Of others it is something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sockets {
    All,
    /// Those that accept connections.
    Listening,
    /// Those without connections. Others have copied it from the packet that began theirs
    /// (`tcp_v4_syn_recv_sock` in net/ipv4/tcp_ipv4.c), or it changes nothing.
    Unconnected,
}

/// An option.
#[derive(Debug)]
pub(super) struct Known {
    /// Its name in the kernel's headers: include/uapi/asm-generic/socket.h, include/uapi/linux/{in,in6,tcp,udp}.h.
    pub(super) name: &'static str,
    pub(super) level: i32,
    pub(super) number: i32,
    pub(super) form: Form,
    sockets: Sockets,
}

impl Known {
    /// The option of this name.
    pub(super) fn named(name: &str) -> Option<&'static Known> {
        KNOWN.iter().find(|known| known.name == name)
    }

    /// All, in the order in which they are set again.
    pub(super) fn all() -> impl Iterator<Item = &'static Known> + Clone {
        KNOWN.iter()
    }

    /// Whether sockets of this kind may have it.
    pub(super) fn is_of(&self, kind: Kind, listens: bool) -> bool {
        let fits = match self.level {
            SOCKET | IP => true,
            IPV6 => kind.family == libc::AF_INET6,
            level => level == kind.protocol,
        };
        fits && match self.sockets {
            Sockets::All => true,
            Sockets::Listening => listens,
            Sockets::Unconnected => kind.kind != libc::SOCK_STREAM,
        }
    }

    /// No value is longer.
    pub(super) fn most_bytes(&self) -> usize {
        match self.form {
            Form::Bytes(most) => most,
            Form::Interface | Form::InterfaceInNetworkOrder => size_of::<i32>(),
        }
    }
}

const SOCKET: i32 = libc::SOL_SOCKET;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
const TCP: i32 = libc::IPPROTO_TCP;
const UDP: i32 = libc::IPPROTO_UDP;
const UDP_LITE: i32 = libc::IPPROTO_UDPLITE;

const fn flag(name: &'static str, level: i32, number: i32) -> Known {
    bytes(name, level, number, 4)
}

const fn bytes(name: &'static str, level: i32, number: i32, most_bytes: usize) -> Known {
    Known {
        name,
        level,
        number,
        form: Form::Bytes(most_bytes),
        sockets: Sockets::All,
    }
}

const fn listening(name: &'static str, number: i32) -> Known {
    Known {
        sockets: Sockets::Listening,
        ..flag(name, TCP, number)
    }
}

const fn unconnected(name: &'static str, level: i32, number: i32) -> Known {
    Known {
        sockets: Sockets::Unconnected,
        ..flag(name, level, number)
    }
}

/// Of sockets without connections.
const fn interface(name: &'static str, level: i32, number: i32, form: Form) -> Known {
    Known {
        form,
        ..unconnected(name, level, number)
    }
}

/// In the order in which they are set again.
const KNOWN: [Known; 89] = [
    flag("SO_DEBUG", SOCKET, 1),
    flag("SO_TIMESTAMP_OLD", SOCKET, 29),
    flag("SO_TIMESTAMPNS_OLD", SOCKET, 35),
    bytes("SO_TIMESTAMPING_OLD", SOCKET, 37, 8),
    flag("SO_TIMESTAMP_NEW", SOCKET, 63),
    flag("SO_TIMESTAMPNS_NEW", SOCKET, 64),
    unconnected("SO_RXQ_OVFL", SOCKET, 40),
    flag("SO_PEEK_OFF", SOCKET, 42),
    unconnected("SO_SELECT_ERR_QUEUE", SOCKET, 45),
    flag("SO_BUSY_POLL", SOCKET, 46),
    bytes("SO_MAX_PACING_RATE", SOCKET, 47, 8),
    flag("SO_ZEROCOPY", SOCKET, 60),
    bytes("SO_TXTIME", SOCKET, 61, 8),
    flag("SO_PREFER_BUSY_POLL", SOCKET, 69),
    flag("SO_RCVPRIORITY", SOCKET, 82),
    flag("IP_TOS", IP, 1),
    flag("IP_TTL", IP, 2),
    bytes("IP_OPTIONS", IP, 4, 40),
    unconnected("IP_RECVOPTS", IP, 6),
    unconnected("IP_RETOPTS", IP, 7),
    unconnected("IP_PKTINFO", IP, 8),
    flag("IP_MTU_DISCOVER", IP, 10),
    flag("IP_RECVERR", IP, 11),
    unconnected("IP_RECVTTL", IP, 12),
    unconnected("IP_RECVTOS", IP, 13),
    unconnected("IP_PASSSEC", IP, 18),
    flag("IP_TRANSPARENT", IP, 19),
    unconnected("IP_RECVORIGDSTADDR", IP, 20),
    flag("IP_MINTTL", IP, 21),
    unconnected("IP_CHECKSUM", IP, 23),
    flag("IP_BIND_ADDRESS_NO_PORT", IP, 24),
    unconnected("IP_RECVFRAGSIZE", IP, 25),
    unconnected("IP_RECVERR_RFC4884", IP, 26),
    bytes("IP_MULTICAST_IF", IP, 32, 4),
    unconnected("IP_MULTICAST_TTL", IP, 33),
    unconnected("IP_MULTICAST_LOOP", IP, 34),
    unconnected("IP_MULTICAST_ALL", IP, 49),
    interface("IP_UNICAST_IF", IP, 50, Form::InterfaceInNetworkOrder),
    flag("IP_LOCAL_PORT_RANGE", IP, 51),
    unconnected("IPV6_CHECKSUM", IPV6, 7),
    flag("IPV6_UNICAST_HOPS", IPV6, 16),
    interface("IPV6_MULTICAST_IF", IPV6, 17, Form::Interface),
    unconnected("IPV6_MULTICAST_HOPS", IPV6, 18),
    unconnected("IPV6_MULTICAST_LOOP", IPV6, 19),
    flag("IPV6_MTU_DISCOVER", IPV6, 23),
    flag("IPV6_RECVERR", IPV6, 25),
    unconnected("IPV6_MULTICAST_ALL", IPV6, 29),
    unconnected("IPV6_RECVERR_RFC4884", IPV6, 31),
    flag("IPV6_FLOWINFO_SEND", IPV6, 33),
    unconnected("IPV6_RECVPKTINFO", IPV6, 49),
    unconnected("IPV6_RECVHOPLIMIT", IPV6, 51),
    unconnected("IPV6_RECVHOPOPTS", IPV6, 53),
    unconnected("IPV6_RECVRTHDR", IPV6, 56),
    unconnected("IPV6_RECVDSTOPTS", IPV6, 58),
    unconnected("IPV6_RECVPATHMTU", IPV6, 60),
    unconnected("IPV6_DONTFRAG", IPV6, 62),
    unconnected("IPV6_RECVTCLASS", IPV6, 66),
    flag("IPV6_TCLASS", IPV6, 67),
    flag("IPV6_AUTOFLOWLABEL", IPV6, 70),
    flag("IPV6_ADDR_PREFERENCES", IPV6, 72),
    flag("IPV6_MINHOPCOUNT", IPV6, 73),
    unconnected("IPV6_RECVORIGDSTADDR", IPV6, 74),
    flag("IPV6_TRANSPARENT", IPV6, 75),
    interface("IPV6_UNICAST_IF", IPV6, 76, Form::InterfaceInNetworkOrder),
    unconnected("IPV6_RECVFRAGSIZE", IPV6, 77),
    listening("TCP_MAXSEG", 2),
    flag("TCP_SYNCNT", TCP, 7),
    flag("TCP_LINGER2", TCP, 8),
    listening("TCP_DEFER_ACCEPT", 9),
    bytes("TCP_CONGESTION", TCP, 13, 16),
    flag("TCP_THIN_LINEAR_TIMEOUTS", TCP, 16),
    flag("TCP_USER_TIMEOUT", TCP, 18),
    listening("TCP_FASTOPEN", 23),
    flag("TCP_NOTSENT_LOWAT", TCP, 25),
    flag("TCP_SAVE_SYN", TCP, 27),
    flag("TCP_FASTOPEN_CONNECT", TCP, 30),
    flag("TCP_FASTOPEN_NO_COOKIE", TCP, 34),
    flag("TCP_INQ", TCP, 36),
    flag("TCP_TX_DELAY", TCP, 37),
    flag("TCP_RTO_MAX_MS", TCP, 44),
    flag("TCP_RTO_MIN_US", TCP, 45),
    flag("TCP_DELACK_MAX_US", TCP, 46),
    flag("UDP_ENCAP", UDP, 100),
    flag("UDP_NO_CHECK6_TX", UDP, 101),
    flag("UDP_NO_CHECK6_RX", UDP, 102),
    flag("UDP_SEGMENT", UDP, 103),
    flag("UDP_GRO", UDP, 104),
    flag("UDPLITE_SEND_CSCOV", UDP_LITE, 10),
    flag("UDPLITE_RECV_CSCOV", UDP_LITE, 11),
];
