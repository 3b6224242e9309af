//! Whom the sockets of a container talk to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use procfs::net::TcpState;
use procfs::process::Process;

/// The addresses that sockets in the network namespace of `pid` are connected to. What cannot be read
/// counts for nothing.
pub fn peers(pid: i32) -> BTreeSet<IpAddr> {
    let Ok(process) = Process::new(pid) else {
        return BTreeSet::new();
    };
    let mut peers = BTreeSet::new();
    for sockets in [process.tcp(), process.tcp6()].into_iter().flatten() {
        let over = |state: &TcpState| matches!(state, TcpState::TimeWait | TcpState::Close);
        let open = sockets.iter().filter(|socket| !over(&socket.state));
        peers.extend(open.map(|socket| socket.remote_address.ip()));
    }
    for sockets in [process.udp(), process.udp6()].into_iter().flatten() {
        peers.extend(sockets.iter().map(|socket| socket.remote_address.ip()));
    }
    peers
        .into_iter()
        .map(|address| address.to_canonical())
        .filter(|address| !address.is_unspecified() && !address.is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn connected_sockets_count_and_loopback_does_not() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let me = std::process::id() as i32;
        socket.connect("127.0.0.9:9").unwrap();
        assert!(!peers(me).contains(&"127.0.0.9".parse().unwrap()));
        // Nothing is sent.
        let elsewhere: IpAddr = "192.0.2.77".parse().unwrap();
        if socket.connect((elsewhere, 9)).is_ok() {
            assert!(peers(me).contains(&elsewhere));
        }
    }
}
