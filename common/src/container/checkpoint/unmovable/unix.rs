//! Unix sockets of a container that lead out of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::net::kernel::netns;
use crate::net::kernel::unix_diag::{self, Peer};

/// The Unix sockets of a container's network namespace. A connection to one that is elsewhere leads to a
/// program of the host or of another container, through a socket that is in a directory of both.
pub(super) struct UnixSockets(BTreeMap<u32, Peer>);

impl UnixSockets {
    /// Of the container with this first process; none if they cannot be listed.
    pub(super) fn of(first: &Path) -> Self {
        let listed = netns::in_netns(&first.join("ns/net"), unix_diag::peers);
        UnixSockets(listed.ok().and_then(Result::ok).unwrap_or_default())
    }

    /// What cannot be dumped of the socket behind a descriptor in `/proc/PID/fd`, if it is one.
    pub(super) fn leads_out(&self, path: &Path) -> Option<String> {
        let target = fs::read_link(path).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?;
        let inode: u32 = inode.strip_suffix(']')?.parse().ok()?;
        let leads_out = match self.0.get(&inode)? {
            Peer::None | Peer::Listener => false,
            Peer::Socket(peer) => !self.0.contains_key(peer),
            Peer::Elsewhere => true,
        };
        leads_out.then(|| {
            "is connected through a Unix socket with a program outside the container".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_connection_leads_out_if_its_other_end_is_elsewhere() {
        let (one, other) = UnixStream::pair().unwrap();
        let path = |socket: &UnixStream| {
            std::path::PathBuf::from(format!("/proc/self/fd/{}", socket.as_raw_fd()))
        };
        let sockets = UnixSockets::of(Path::new("/proc/self"));
        assert_eq!(sockets.leads_out(&path(&one)), None);
        let link = fs::read_link(path(&other)).unwrap();
        let inode = link
            .to_str()
            .unwrap()
            .trim_matches(|c: char| !c.is_ascii_digit());
        let mut outside = sockets;
        outside.0.remove(&inode.parse().unwrap());
        assert!(outside.leads_out(&path(&one)).is_some());
    }
}
