//! Which Unix sockets are connected to each other, from the kernel's sock_diag(7).

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

/// include/uapi/linux/sock_diag.h and unix_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_PEER: u32 = 4;
const UDIAG_SHOW_ICONS: u32 = 8;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_ICONS: u16 = 3;
const UNIX_DIAG_SHUTDOWN: u16 = 6;
const TCP_ESTABLISHED: u8 = 1;
/// Both ways.
const SHUTDOWN_MASK: u8 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Of a netlink message, and of `struct unix_diag_req` and `struct unix_diag_msg`.
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = 24;
const ANSWER_BYTES: usize = 16;

/// What a Unix socket is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Nothing, or nothing any more.
    None,
    /// The socket with this inode.
    Socket(u32),
    /// A listener of the same network namespace, which has not accepted it yet.
    Listener,
    /// A listener of another one, which has not accepted it yet.
    Elsewhere,
}

#[derive(Default)]
struct Found {
    peers: BTreeMap<u32, Peer>,
    /// Those that wait to be accepted.
    waiting: BTreeSet<u32>,
}

/// The Unix sockets in the network namespace of the calling thread, by inode.
///
/// # Errors
/// Those of the socket, and if the kernel has no `CONFIG_UNIX_DIAG`.
pub fn peers() -> io::Result<BTreeMap<u32, Peer>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(), 0)?;
    let mut found = Found::default();
    loop {
        let mut buffer = Vec::with_capacity(64 << 10);
        socket.recv(&mut buffer, 0)?;
        if read(&buffer, &mut found)? {
            break;
        }
    }
    for inode in &found.waiting {
        let waiting = found.peers.get_mut(inode);
        if let Some(peer @ Peer::Elsewhere) = waiting {
            *peer = Peer::Listener;
        }
    }
    Ok(found.peers)
}

fn request() -> Vec<u8> {
    let length = (HEADER_BYTES + REQUEST_BYTES) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.resize(HEADER_BYTES, 0);
    bytes.extend([nix::libc::AF_UNIX as u8, 0, 0, 0]);
    // All states, any inode, no cookie.
    let show = UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS;
    for word in [u32::MAX, 0, show, u32::MAX, u32::MAX] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// Adds the sockets in a datagram; returns whether it is the last one.
fn read(mut datagram: &[u8], found: &mut Found) -> io::Result<bool> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    while !datagram.is_empty() {
        let length = number(datagram, 0).ok_or_else(malformed)? as usize;
        let message = datagram.get(..length).ok_or_else(malformed)?;
        let content = message.get(HEADER_BYTES..).ok_or_else(malformed)?;
        match short(message, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let code = number(content, 0).ok_or_else(malformed)? as i32;
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            _ => {}
        }
        let inode = number(content, 4).ok_or_else(malformed)?;
        let attributes = content.get(ANSWER_BYTES..).ok_or_else(malformed)?;
        let head = [content[1], content[2]];
        found.peers.insert(inode, peer(head, attributes));
        let waiting = attribute(attributes, UNIX_DIAG_ICONS).unwrap_or_default();
        let waiting = waiting.chunks_exact(4).filter_map(|word| number(word, 0));
        found.waiting.extend(waiting);
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(false)
}

/// What a socket of this type and in this state is connected to, as CRIU sees it (`dump_one_unix_fd` in
/// criu/sk-unix.c).
fn peer([kind, state]: [u8; 2], attributes: &[u8]) -> Peer {
    let inode = attribute(attributes, UNIX_DIAG_PEER).and_then(|value| number(value, 0));
    let shut = attribute(attributes, UNIX_DIAG_SHUTDOWN).and_then(|value| value.first().copied());
    let datagrams = i32::from(kind) == nix::libc::SOCK_DGRAM;
    match inode {
        Some(inode) if inode != 0 => Peer::Socket(inode),
        _ if datagrams || state != TCP_ESTABLISHED || shut == Some(SHUTDOWN_MASK) => Peer::None,
        _ => Peer::Elsewhere,
    }
}

fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(short(attributes, 0)?);
        if short(attributes, 2)? == kind {
            return attributes.get(4..length);
        }
        // An attribute has at least four bytes, its header.
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    #[test]
    fn a_pair_knows_each_other() {
        let (one, other) = UnixStream::pair().unwrap();
        let alone = UnixDatagram::unbound().unwrap();
        let inode = |socket: &dyn AsRawFd| {
            let link = format!("/proc/self/fd/{}", socket.as_raw_fd());
            let link = std::fs::read_link(link).unwrap();
            let inode = link.to_str().unwrap().strip_prefix("socket:[").unwrap();
            inode.strip_suffix(']').unwrap().parse::<u32>().unwrap()
        };
        let found = peers().unwrap();
        assert_eq!(found[&inode(&one)], Peer::Socket(inode(&other)));
        assert_eq!(found[&inode(&other)], Peer::Socket(inode(&one)));
        assert_eq!(found[&inode(&alone)], Peer::None);
        drop(other);
        assert_eq!(peers().unwrap()[&inode(&one)], Peer::None);
        // One that waits to be accepted has no other end yet.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let waiting = UnixStream::connect(&path).unwrap();
        assert_eq!(peers().unwrap()[&inode(&waiting)], Peer::Listener);
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let mut found = Found::default();
        let whole = request();
        for length in 1..HEADER_BYTES {
            read(&whole[..length], &mut found).unwrap_err();
        }
        read(&[0; 32], &mut found).unwrap_err();
    }
}
