//! Which Unix sockets are connected to each other, from the kernel's sock_diag(7).

use std::collections::BTreeMap;
use std::io;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

/// include/uapi/linux/sock_diag.h and unix_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_PEER: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Of a netlink message, and of `struct unix_diag_req` and `struct unix_diag_msg`.
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = 24;
const ANSWER_BYTES: usize = 16;

/// The Unix sockets in the network namespace of the calling thread, by inode, with the inodes of those that
/// they are connected to.
///
/// # Errors
/// Those of the socket, and if the kernel has no `CONFIG_UNIX_DIAG`.
pub fn peers() -> io::Result<BTreeMap<u32, Option<u32>>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(), 0)?;
    let mut found = BTreeMap::new();
    loop {
        let mut buffer = Vec::with_capacity(64 << 10);
        socket.recv(&mut buffer, 0)?;
        if read(&buffer, &mut found)? {
            return Ok(found);
        }
    }
}

fn request() -> Vec<u8> {
    let length = (HEADER_BYTES + REQUEST_BYTES) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.resize(HEADER_BYTES, 0);
    bytes.extend([nix::libc::AF_UNIX as u8, 0, 0, 0]);
    // All states, any inode, with the peer, no cookie.
    for word in [u32::MAX, 0, UDIAG_SHOW_PEER, u32::MAX, u32::MAX] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// Adds the sockets in a datagram; returns whether it is the last one.
fn read(mut datagram: &[u8], found: &mut BTreeMap<u32, Option<u32>>) -> io::Result<bool> {
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
        found.insert(inode, peer(attributes));
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(false)
}

fn peer(mut attributes: &[u8]) -> Option<u32> {
    loop {
        let length = usize::from(short(attributes, 0)?);
        if short(attributes, 2)? == UNIX_DIAG_PEER {
            return number(attributes, 4).filter(|inode| *inode != 0);
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
    use std::os::unix::net::{UnixDatagram, UnixStream};

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
        assert_eq!(found[&inode(&one)], Some(inode(&other)));
        assert_eq!(found[&inode(&other)], Some(inode(&one)));
        assert_eq!(found[&inode(&alone)], None);
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let mut found = BTreeMap::new();
        let whole = request();
        for length in 1..HEADER_BYTES {
            read(&whole[..length], &mut found).unwrap_err();
        }
        read(&[0; 32], &mut found).unwrap_err();
    }
}
