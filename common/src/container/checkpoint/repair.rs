//! Connections that a killed CRIU left in repair mode.
//!
//! While CRIU dumps a connection its socket is in repair mode (`tcp_repair_on` in CRIU's
//! soccr/soccr.c): nothing is sent, and a write fails with EINVAL (`tcp_sendmsg_locked` in the kernel's
//! net/ipv4/tcp.c). If CRIU is killed then, nothing ends that mode, and the application would give up
//! the connection.

use std::io;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use crate::container::sockets;

/// Ends repair mode on every socket of these processes that is in it, and returns how many there
/// were. The processes should be frozen; those that are gone are skipped.
///
/// # Errors
/// If a socket cannot be reached or changed: without `CAP_NET_ADMIN` or `CAP_SYS_PTRACE`.
pub fn end(processes: &[i32]) -> io::Result<usize> {
    let mut ended = 0;
    sockets::each(processes, |socket| {
        let socket = &socket.descriptor;
        // Sockets of other kinds do not support the option.
        if getsockopt(socket, sockopt::TcpRepair).is_ok_and(|mode| mode != 0) {
            setsockopt(socket, sockopt::TcpRepair, &0)?;
            ended += 1;
        }
        Ok(())
    })?;
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    #[test]
    fn a_connection_goes_on() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut there, _) = listener.accept().unwrap();
        if setsockopt(&here, sockopt::TcpRepair, &1).is_err() {
            println!("skipped: repair mode needs root");
            return;
        }
        here.write_all(b"x").unwrap_err();

        let own = [std::process::id() as i32];
        assert_eq!(end(&own).unwrap(), 1);
        assert_eq!(end(&own).unwrap(), 0);
        here.write_all(b"x").unwrap();
        let mut byte = [0];
        there.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }
}
