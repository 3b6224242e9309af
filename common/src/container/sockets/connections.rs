//! The peers of a container's sockets.

use std::net::SocketAddr;
use std::path::Path;

use conntrack::{Protocol, Tuple};
use procfs::net::{TcpNetEntries, TcpState, UdpNetEntries};
use procfs::{FromReadSI, current_system_info};

/// The connections of the sockets in a network namespace, except over loopback, as the tuples of the
/// packets they send. `net` is `/proc/PID/net`, the kernel's view of the namespace. What cannot be read is
/// left out.
pub fn of(net: &Path) -> Vec<Tuple> {
    let mut connections = Vec::new();
    let mut add = |protocol, local: SocketAddr, remote: SocketAddr| {
        let [source, destination] =
            [local, remote].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
        if !destination.ip().is_unspecified() && !destination.ip().is_loopback() {
            connections.push(Tuple {
                source,
                destination,
                protocol,
            });
        }
    };
    for name in ["tcp", "tcp6"] {
        let sockets = TcpNetEntries::from_file(net.join(name), current_system_info());
        for socket in sockets.into_iter().flat_map(|sockets| sockets.0) {
            if !matches!(socket.state, TcpState::TimeWait | TcpState::Close) {
                add(Protocol::Tcp, socket.local_address, socket.remote_address);
            }
        }
    }
    for name in ["udp", "udp6"] {
        let sockets = UdpNetEntries::from_file(net.join(name), current_system_info());
        for socket in sockets.into_iter().flat_map(|sockets| sockets.0) {
            add(Protocol::Udp, socket.local_address, socket.remote_address);
        }
    }
    connections
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn connected_sockets_count_and_loopback_does_not() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let mine = || {
            let local = socket.local_addr().unwrap();
            let mut connections = of(Path::new("/proc/self/net"));
            connections.retain(|c| c.source == local && c.protocol == Protocol::Udp);
            connections
        };
        socket.connect("127.0.0.9:9").unwrap();
        assert_eq!(mine(), []);
        // Nothing is sent.
        let elsewhere: SocketAddr = "192.0.2.77:9".parse().unwrap();
        if socket.connect(elsewhere).is_ok() {
            assert_eq!(mine()[0].destination, elsewhere);
        }
    }
}
