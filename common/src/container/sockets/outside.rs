//! What of a connection is neither in the socket nor in CRIU's images.

use std::os::fd::AsFd;

use super::{Socket, each, option};

/// include/uapi/linux/tcp.h.
const TCP_ULP: i32 = 31;

/// The longest name that there is (`TCP_ULP_NAME_MAX` in include/net/tcp.h).
const MOST_BYTES: usize = 16;

/// Says which of these processes have a connection that the kernel encrypts, or gives to another protocol above
/// TCP, in words: a program's name for a process and what it has. Nobody can read the state of such a protocol.
/// What cannot be reached is left out.
pub fn encrypted_by_the_kernel(processes: &[i32]) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    let looked = each(processes, |socket| {
        if let Some(protocol) = protocol_above(socket) {
            let what = match protocol.as_str() {
                "tls" => "has a connection that the kernel encrypts (kTLS)".to_owned(),
                other => format!("has a connection of the protocol {other} above TCP"),
            };
            found.push((socket.pid, what));
        }
        Ok(())
    });
    if let Err(error) = looked {
        tracing::debug!("not all sockets were looked at: {error}");
    }
    found
}

fn protocol_above(socket: &Socket) -> Option<String> {
    let mut name = [0; MOST_BYTES];
    let length = option::read(
        socket.descriptor.as_fd(),
        libc::IPPROTO_TCP,
        TCP_ULP,
        &mut name,
    );
    let name = String::from_utf8_lossy(&name[..length.ok()?]).into_owned();
    let name = name.trim_end_matches('\0');
    // Its sockets are found by their own protocol.
    (!name.is_empty() && name != "mptcp").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_that_the_kernel_encrypts_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let own = std::process::id() as i32;
        assert_eq!(encrypted_by_the_kernel(&[own]), []);
        if let Err(error) = option::set(connection.as_fd(), libc::IPPROTO_TCP, TCP_ULP, b"tls") {
            println!("skipped: the kernel has no TLS of its own: {error}");
            return;
        }
        let found = encrypted_by_the_kernel(&[own]);
        assert!(found[0].1.contains("kTLS"), "{found:?}");
    }
}
