//! Whom the sockets of a container talk to.

use std::net::SocketAddr;

use conntrack::{Protocol, Tuple};
use procfs::net::TcpState;
use procfs::process::Process;

/// The connections of sockets in the network namespace of `pid`, loopback left out, as the tuples of the
/// packets that they send. What cannot be read counts for nothing.
pub fn connections(pid: i32) -> Vec<Tuple> {
    let Ok(process) = Process::new(pid) else {
        return Vec::new();
    };
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
    for sockets in [process.tcp(), process.tcp6()].into_iter().flatten() {
        for socket in sockets {
            if !matches!(socket.state, TcpState::TimeWait | TcpState::Close) {
                add(Protocol::Tcp, socket.local_address, socket.remote_address);
            }
        }
    }
    for sockets in [process.udp(), process.udp6()].into_iter().flatten() {
        for socket in sockets {
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
        let me = std::process::id() as i32;
        let mine = || {
            let local = socket.local_addr().unwrap();
            let mut connections = connections(me);
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
