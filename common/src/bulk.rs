//! Bulk streams: raw bytes on a TCP connection of their own, inside the tunnel.
//!
//! A connection opens with [`Ticket`] and stream number (36 bytes), then carries payload until the
//! sender closes its half. Both ends hash what passes; the control connection compares. Nothing is
//! buffered beyond one chunk and the sockets' own buffers, so TCP is the back pressure and
//! memory use is constant whatever the stream's size.
//!
//! WireGuard encrypts and authenticates the path, and the ticket belongs to this one migration.
//!
//! Blocking I/O: these run on threads of their own, feeding `tar` and `podman`.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use tokio_util::sync::CancellationToken;

use crate::faults;
use crate::net::ports;
use crate::protocol::StreamDigest;
use crate::protocol::liveness::SILENCE_LIMIT;
use crate::ticket::{self, Ticket};

/// Unit of reading and writing, in bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// Bytes that a connection opens with.
pub(crate) const PREAMBLE: usize = ticket::BYTES + 4;

/// How long it may take to connect.
const CONNECT_LIMIT: i64 = 10;

/// The first of the ports that streams come from, one port per stream; they follow those of the
/// tunnels.
const FIRST_PORT: u16 = 51_900;

/// How many there are.
const PORTS: u16 = 100;

/// How long a bulk connection may make no progress before it counts as dead. Short, because the
/// container may be frozen meanwhile.
const STALL_LIMIT: Duration = SILENCE_LIMIT;

/// How long a connection may take to present its ticket, and how many may be about to at once: of more, the
/// oldest is dropped.
const PRESENT_LIMIT: Duration = Duration::from_secs(5);
const MOST_PRESENTING: usize = 64;

/// How often a blocked end checks its cancellation token.
const POLL: Duration = Duration::from_millis(100);

/// Counts bytes for whoever shows progress.
pub type ByteCount = Arc<AtomicU64>;

/// The source port of a stream's connection, which lets the destination expect it.
pub fn source_port(stream: u32) -> u16 {
    FIRST_PORT + (stream % u32::from(PORTS)) as u16
}

/// Connects from this port, or from any if it is taken: any port will do unless a firewall cares.
fn connect(to: SocketAddr, port: u16) -> io::Result<TcpStream> {
    match connect_from(port, to) {
        Err(Errno::EADDRINUSE | Errno::EADDRNOTAVAIL) => connect_from(0, to),
        other => other,
    }
    .map_err(|error| match error {
        Errno::EINPROGRESS => io::ErrorKind::TimedOut.into(),
        error => error.into(),
    })
}

fn connect_from(port: u16, to: SocketAddr) -> nix::Result<TcpStream> {
    let (family, any): (_, IpAddr) = match to {
        SocketAddr::V4(_) => (AddressFamily::Inet, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::Inet6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let from = SockaddrStorage::from(SocketAddr::new(any, port));
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Allows a port whose last connection is still in TIME_WAIT.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(
        &socket,
        sockopt::SendTimeout,
        &TimeVal::seconds(CONNECT_LIMIT),
    )?;
    bind(socket.as_raw_fd(), &from)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(socket.into())
}

/// Writing end of a stream.
pub struct Sender {
    socket: TcpStream,
    stream: u32,
    hasher: blake3::Hasher,
    bytes: u64,
    progress: ByteCount,
    cancel: CancellationToken,
    /// Dropping a `BufWriter` or an archive flushes it. Once a write has failed, fail at once instead
    /// of waiting out the stall limit again.
    dead: bool,
}

impl Sender {
    /// Connects to `data` inside the tunnel and presents the ticket.
    ///
    /// Fails with the socket's error, or `TimedOut` after 10 s. Comes from [`source_port`] if that is
    /// free.
    pub fn connect(
        data: SocketAddr,
        ticket: &Ticket,
        stream: u32,
        progress: ByteCount,
        cancel: CancellationToken,
    ) -> io::Result<Self> {
        let mut socket = connect(data, source_port(stream))?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(POLL))?;
        let mut preamble = [0; PREAMBLE];
        preamble[..ticket::BYTES].copy_from_slice(ticket.bytes());
        preamble[ticket::BYTES..].copy_from_slice(&stream.to_be_bytes());
        socket.write_all(&preamble)?;
        Ok(Sender {
            socket,
            stream,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            progress,
            cancel,
            dead: false,
        })
    }

    /// Sends what is left and closes this half; the receiver sees the end of the stream.
    pub fn finish(self) -> io::Result<StreamDigest> {
        self.socket.shutdown(Shutdown::Write)?;
        Ok(StreamDigest {
            bytes: self.bytes,
            blake3: *self.hasher.finalize().as_bytes(),
        })
    }

    /// Writes as soon as there is room.
    fn write_some(&mut self, chunk: &[u8]) -> io::Result<usize> {
        let stalls_at = Instant::now() + STALL_LIMIT;
        loop {
            if self.cancel.is_cancelled() {
                return Err(cancelled());
            }
            match self.socket.write(chunk) {
                Err(error) if is_timeout(&error) && Instant::now() < stalls_at => {}
                Err(error) if is_timeout(&error) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the destination no longer takes data",
                    ));
                }
                written => return written,
            }
        }
    }
}

impl Write for Sender {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.dead {
            return Err(cancelled());
        }
        let chunk = &buf[..buf.len().min(CHUNK_BYTES)];
        let written = if faults::corrupts(|| format!("bulk.{}", self.stream)) {
            let mut corrupt = chunk.to_vec();
            corrupt[chunk.len() / 2] ^= 1;
            self.write_some(&corrupt)
        } else {
            self.write_some(chunk)
        };
        self.dead = written.is_err();
        let n = written?;
        self.hasher.update(&buf[..n]);
        self.bytes += n as u64;
        self.progress.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// Accepts the streams of one migration.
pub struct Receiving {
    listener: TcpListener,
    ticket: Ticket,
}

impl Receiving {
    /// Listens at `address`, the destination's inside the tunnel, on the tunnel's interface only: a host
    /// answers for its addresses on every interface. Takes a free one of the ports that the tunnel's firewall
    /// rules let through.
    ///
    /// # Errors
    /// Those of the socket; `AddrInUse` if no port is free.
    pub fn bind(address: IpAddr, interface: &str) -> io::Result<Self> {
        let [first, last] = ports::BULK;
        let mut result = Err(io::ErrorKind::AddrInUse.into());
        for port in first..=last {
            result = listen(SocketAddr::new(address, port), interface);
            match &result {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                _ => break,
            }
        }
        Ok(Receiving {
            listener: result?,
            ticket: Ticket::random(),
        })
    }

    /// Where the source connects to.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What the source presents.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Waits for the connection of `stream`. Connections without the ticket are dropped; one that is slow to
    /// present it does not keep others waiting.
    pub fn accept(&self, stream: u32, cancel: &CancellationToken) -> io::Result<Receiver> {
        let deadline = Instant::now() + STALL_LIMIT;
        let mut presenting = VecDeque::new();
        loop {
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            match self.listener.accept() {
                Ok((socket, from)) => {
                    socket.set_nonblocking(true)?;
                    presenting.push_back(Presenting::new(socket, from));
                    if presenting.len() > MOST_PRESENTING {
                        presenting.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() > deadline {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error),
            }
            for _ in 0..presenting.len() {
                let mut connection = presenting.pop_front().expect("it was counted");
                match connection.read() {
                    Ok(false) => presenting.push_back(connection),
                    Ok(true) => match check_preamble(&connection.preamble, &self.ticket, stream) {
                        Ok(()) => return connection.into_receiver(cancel.clone()),
                        Err(error) => connection.refuse(&error),
                    },
                    Err(error) => connection.refuse(&error),
                }
            }
        }
    }
}

/// Whether a connection may begin that opens with this.
pub(crate) fn check_preamble(
    preamble: &[u8; PREAMBLE],
    ticket: &Ticket,
    stream: u32,
) -> io::Result<()> {
    let presented = *preamble.first_chunk().expect("a preamble is longer");
    if !ticket.is(presented) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "wrong ticket",
        ));
    }
    if preamble[ticket::BYTES..] != stream.to_be_bytes() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "unexpected stream number",
        ));
    }
    Ok(())
}

fn listen(address: SocketAddr, interface: &str) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::BindToDevice, &interface.into())?;
    // A port whose last connection is still remembered is free.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    nix::sys::socket::listen(&socket, Backlog::MAXCONN)?;
    Ok(socket.into())
}

/// A connection that has not presented its ticket.
struct Presenting {
    socket: TcpStream,
    from: SocketAddr,
    until: Instant,
    preamble: [u8; PREAMBLE],
    filled: usize,
}

impl Presenting {
    fn new(socket: TcpStream, from: SocketAddr) -> Self {
        Presenting {
            socket,
            from,
            until: Instant::now() + PRESENT_LIMIT,
            preamble: [0; PREAMBLE],
            filled: 0,
        }
    }

    /// Reads what has come; says whether the preamble is complete.
    fn read(&mut self) -> io::Result<bool> {
        match self.socket.read(&mut self.preamble[self.filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if self.filled < PREAMBLE && Instant::now() > self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(self.filled == PREAMBLE)
    }

    fn refuse(self, error: &io::Error) {
        tracing::warn!(from = %self.from, %error, "bulk connection refused");
    }

    fn into_receiver(self, cancel: CancellationToken) -> io::Result<Receiver> {
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(Some(POLL))?;
        Ok(Receiver {
            socket: self.socket,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            cancel,
        })
    }
}

/// Reading end of a stream.
#[derive(Debug)]
pub struct Receiver {
    socket: TcpStream,
    hasher: blake3::Hasher,
    bytes: u64,
    cancel: CancellationToken,
}

impl Receiver {
    /// Reads what the consumer left unread and returns the digest of the whole stream.
    pub fn finish(mut self) -> io::Result<StreamDigest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(StreamDigest {
            bytes: self.bytes,
            blake3: *self.hasher.finalize().as_bytes(),
        })
    }
}

impl Read for Receiver {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(cancelled());
            }
            match self.socket.read(buf) {
                Ok(n) => {
                    self.hasher.update(&buf[..n]);
                    self.bytes += n as u64;
                    return Ok(n);
                }
                Err(error) if is_timeout(&error) => {
                    // The source may be silent while CRIU dumps something other than memory. The
                    // control connection notices if it is dead.
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn cancelled() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(receiving: &Receiving, ticket: &Ticket, stream: u32) -> Sender {
        Sender::connect(
            receiving.address().unwrap(),
            ticket,
            stream,
            ByteCount::default(),
            CancellationToken::new(),
        )
        .unwrap()
    }

    fn listening() -> Receiving {
        Receiving::bind(Ipv4Addr::LOCALHOST.into(), "lo").unwrap()
    }

    #[test]
    fn both_ends_compute_the_same_digest() {
        let receiving = listening();
        let mut sender = sender(&receiving, receiving.ticket(), 7);
        let data = vec![0x5a; 3 << 20];
        let copy = data.clone();
        let writer = std::thread::spawn(move || {
            sender.write_all(&copy).unwrap();
            sender.finish().unwrap()
        });
        let mut receiver = receiving.accept(7, &CancellationToken::new()).unwrap();
        let mut first = [0; 10];
        receiver.read_exact(&mut first).unwrap();
        let received = receiver.finish().unwrap();
        assert_eq!(received, writer.join().unwrap());
        assert_eq!(received.bytes, data.len() as u64);
        assert_eq!(received.blake3, *blake3::hash(&data).as_bytes());
    }

    #[test]
    fn a_wrong_ticket_is_turned_away_and_the_right_one_still_gets_in() {
        let receiving = listening();
        let _stranger = sender(&receiving, &Ticket::random(), 1);
        let _wrong_stream = sender(&receiving, receiving.ticket(), 2);
        let right = sender(&receiving, receiving.ticket(), 1);
        let receiver = receiving.accept(1, &CancellationToken::new()).unwrap();
        right.finish().unwrap();
        assert_eq!(receiver.finish().unwrap().bytes, 0);
    }

    #[test]
    fn nobody_can_hold_the_port() {
        let receiving = listening();
        let address = receiving.address().unwrap();
        // A byte now and then, for longer than all of the ticket may take.
        let slow = std::thread::spawn(move || {
            let mut stranger = TcpStream::connect(address).unwrap();
            for _ in 0..4 {
                if stranger.write_all(&[0]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2500));
            }
        });
        let silent: Vec<_> = (0..100)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let right = sender(&receiving, receiving.ticket(), 1);
        let start = Instant::now();
        let receiver = receiving.accept(1, &CancellationToken::new()).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2));
        right.finish().unwrap();
        assert_eq!(receiver.finish().unwrap().bytes, 0);
        drop(silent);
        slow.join().unwrap();
    }

    #[test]
    fn it_listens_on_one_interface_and_at_its_ports_only() {
        let receiving = listening();
        let address = receiving.address().unwrap();
        assert!((ports::BULK[0]..=ports::BULK[1]).contains(&address.port()));
        let device = nix::sys::socket::getsockopt(&receiving.listener, sockopt::BindToDevice);
        assert_eq!(device.unwrap(), "lo");
    }

    #[test]
    fn a_cancelled_receiver_stops() {
        let receiving = listening();
        let _sender = sender(&receiving, receiving.ticket(), 1);
        let cancel = CancellationToken::new();
        let receiver = receiving.accept(1, &cancel).unwrap();
        cancel.cancel();
        assert!(receiver.finish().is_err());
        assert!(receiving.accept(2, &cancel).is_err());
    }
}
