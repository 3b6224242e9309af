//! One ICMP echo through the tunnel. The kernel at the other end answers, so no program is needed
//! there, and firewalls seldom refuse it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Pause before an unanswered request is repeated.
const INTERVAL: Duration = Duration::from_millis(200);

/// The identifier in echo requests, by which a tunnel's other end can expect them.
pub(crate) const IDENTIFIER: u16 = 0x6c6d;

/// Sends echo requests from `local` to `peer` until one is answered: `Ok(false)` if none is within
/// `timeout`.
///
/// Needs `CAP_NET_RAW` (a raw socket; the unprivileged kind is off by default outside systemd).
pub(crate) fn round_trip(local: Ipv4Addr, peer: Ipv4Addr, timeout: Duration) -> io::Result<bool> {
    let raw = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Icmp,
    )?;
    bind(
        raw.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(local, 0)),
    )?;
    let wait = TimeVal::milliseconds(INTERVAL.as_millis() as i64);
    setsockopt(&raw, sockopt::ReceiveTimeout, &wait)?;

    let [a, b] = IDENTIFIER.to_be_bytes();
    let [c, d] = rand::random();
    let identifier = [a, b, c, d];
    let request = packet(8, identifier);
    let reply = packet(0, identifier);
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        let peer = SockaddrIn::from(SocketAddrV4::new(peer, 0));
        match sendto(raw.as_raw_fd(), &request, &peer, MsgFlags::empty()) {
            // A userspace WireGuard may not have bound its port at this point.
            Ok(_) | Err(nix::Error::ENOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
        if answered(&raw, &reply, Instant::now() + INTERVAL)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads from the raw socket, which gets every ICMP packet of the host, until the reply comes or the
/// time is up.
fn answered(raw: &impl AsRawFd, reply: &[u8; 8], until: Instant) -> io::Result<bool> {
    let mut buffer = [0; 256];
    while Instant::now() < until {
        match recv(raw.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) if is(&buffer[..length], reply) => return Ok(true),
            Ok(_) => {}
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Whether a datagram is this reply. An IPv4 header comes first, of as many 32-bit words as its low nibble
/// says.
pub(crate) fn is(datagram: &[u8], reply: &[u8; 8]) -> bool {
    let header = datagram.first().map(|first| usize::from(first & 0xf) * 4);
    header.is_some_and(|header| datagram.get(header..header + 8) == Some(&reply[..]))
}

/// An ICMP echo message (RFC 792) without data: type, code, checksum, identifier and sequence.
fn packet(kind: u8, [a, b, c, d]: [u8; 4]) -> [u8; 8] {
    let mut packet = [kind, 0, 0, 0, a, b, c, d];
    let sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_makes_the_sum_all_ones() {
        for identifier in [[0; 4], [255; 4], [1, 2, 3, 4]] {
            let sum: u32 = packet(8, identifier)
                .chunks(2)
                .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
                .sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        }
    }
}
