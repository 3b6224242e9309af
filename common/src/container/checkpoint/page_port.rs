//! A dump that leaves private anonymous memory out.
//!
//! CRIU's `lazy-pages` writes all images but that memory, and then serves the memory at a TCP port to whoever
//! asks for it, until it is told that nobody will: criu/page-xfer.c, `page_server_serve`. Nobody asks here, for
//! the memory goes another way. Anyone on the host could: so the runtime and CRIU get a network
//! namespace of their own, in which nobody else is.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::host::version::version_numbers;
use crate::net::kernel::netns::in_netns;

/// The port. In a namespace of its own any is free.
const PORT: u16 = 4096;

/// `PS_IOV_CLOSE`, encoded (`encode_ps_cmd` in criu/page-xfer.c).
const CLOSE: u32 = 0x1023;

/// Bytes of a message (`struct page_server_iov`): the number of pages has 64 bits since CRIU 4.2.
const MESSAGE_BYTES: [usize; 2] = [24, 32];

/// Pause between attempts to connect: CRIU opens the port at the end of its dump.
const PAUSE: Duration = Duration::from_millis(2);

/// How long CRIU may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// What CRIU makes its pipes as large as (`PIPE_MAX_SIZE` in criu/include/page-pipe.h, in bytes).
const PIPE_BYTES: u64 = 16 << 20;

/// Why a dump on this host cannot leave memory out, if so.
pub fn problem() -> Option<String> {
    let limit = std::fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap_or_default();
    let limit: u64 = limit.trim().parse().unwrap_or(0);
    if limit < PIPE_BYTES && !exceeds_limits() {
        return Some(format!(
            "CRIU's pipes may have {limit} bytes only: `sysctl -w fs.pipe-max-size={PIPE_BYTES}`"
        ));
    }
    None
}

/// Whether this process has CAP_SYS_RESOURCE: proc_pid_status(5), capabilities(7).
fn exceeds_limits() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let set = line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok());
    set.is_some_and(|set| set >> SYS_RESOURCE & 1 == 1)
}

/// The namespace that the port is in.
#[derive(Debug, Clone)]
pub(super) struct PagePort {
    namespace: Arc<File>,
    message_bytes: usize,
}

impl PagePort {
    /// A namespace for a CRIU of this version. It goes away with the last process in it. Blocks.
    pub(super) fn new(criu: &str) -> io::Result<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            bring_loopback_up()?;
            File::open("/proc/thread-self/ns/net")
        });
        let namespace = made.join().map_err(|_| io::Error::other("a panic"))??;
        let new = usize::from(version_numbers(criu) >= (4, 2, 0));
        Ok(PagePort {
            namespace: Arc::new(namespace),
            message_bytes: MESSAGE_BYTES[new],
        })
    }

    /// Has a command run in the namespace, with the options for the runtime.
    pub(super) fn enter(&self, command: &mut Command) {
        command
            .arg("--lazy-pages")
            .args(["--page-server", &format!("127.0.0.1:{PORT}")]);
        let namespace = self.namespace.clone();
        // SAFETY: one system call, which is allowed after fork.
        unsafe {
            command.pre_exec(move || {
                setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(())
            });
        }
    }

    /// Waits for the port, and tells CRIU that nobody will ask for memory. Ends without an error when `ended` is
    /// cancelled. Blocks.
    pub(super) fn close(&self, ended: &CancellationToken) -> io::Result<()> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.namespace.as_raw_fd()));
        let connect = || {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
            while !ended.is_cancelled() {
                if let Ok(connection) = TcpStream::connect(address) {
                    return Some(connection);
                }
                thread::sleep(PAUSE);
            }
            None
        };
        let connection = in_netns(&path, connect).map_err(io::Error::other)?;
        let Some(mut connection) = connection else {
            return Ok(());
        };
        connection.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut message = vec![0; self.message_bytes];
        message[..4].copy_from_slice(&CLOSE.to_ne_bytes());
        connection.write_all(&message)?;
        connection.read_exact(&mut [0; 4])
    }
}

/// Brings `lo` up in this thread's namespace: netdevice(7).
fn bring_loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel reads `request`, which is as it expects it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn nobody_else_is_at_the_port() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        for (criu, bytes) in [("4.1.1", 24), ("4.2.1", 32), ("4.10", 32)] {
            let port = PagePort::new(criu).unwrap();
            let path = format!("/proc/self/fd/{}", port.namespace.as_raw_fd());
            let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).unwrap();
            let listener = in_netns(path.as_ref(), listen).unwrap();
            assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).is_err());
            let served = thread::spawn(move || {
                let (mut connection, _) = listener.accept().unwrap();
                let mut message = vec![0; bytes];
                connection.read_exact(&mut message).unwrap();
                connection.write_all(&[0; 4]).unwrap();
                // And not a byte more.
                assert_eq!(connection.read(&mut [0]).unwrap(), 0);
                message
            });
            port.close(&CancellationToken::new()).unwrap();
            assert_eq!(served.join().unwrap()[..4], CLOSE.to_ne_bytes());
        }
    }

    #[test]
    fn a_dump_that_ends_early_is_not_waited_for() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let ended = CancellationToken::new();
        ended.cancel();
        PagePort::new("4.2").unwrap().close(&ended).unwrap();
    }
}
