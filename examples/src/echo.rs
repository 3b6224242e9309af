//! The echo server: TCP and UDP on the same port number.
//!
//! Over TCP it keeps state: how many frames it has received on each connection. A frame whose
//! number is not the next one is a fault, and ends the connection. One thread serves all
//! connections, as in servers with many.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

use crate::frame::{Frame, SIZE};
use crate::process;

/// An echo server with its thread. It logs to stderr.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its [identity](process::identity).
    pub id: u64,
    connections: Connections,
    datagrams: Arc<AtomicU64>,
    senders: Senders,
}

/// The addresses that datagrams came from.
type Senders = Arc<Mutex<BTreeSet<SocketAddr>>>;

type Connections = Arc<Mutex<Vec<Arc<Mutex<Connection>>>>>;

/// What the server saw on one TCP connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client.
    pub peer: SocketAddr,
    /// Frames echoed.
    pub frames: u64,
    /// The longest time between two frames.
    pub stall: Duration,
    /// What broke the connection, if anything did.
    pub fault: Option<String>,
    last: Instant,
}

impl Server {
    /// Listens on `address` and echoes until the process ends.
    ///
    /// # Errors
    /// Those of binding the TCP and the UDP socket, and of the thread's event loop.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let socket = UdpSocket::bind(address)?;
        let server = Self {
            address,
            id: process::identity(),
            connections: Connections::default(),
            datagrams: Arc::default(),
            senders: Senders::default(),
        };

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let entered = runtime.enter();
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        drop(entered);
        let (id, connections) = (server.id, server.connections.clone());
        let (datagrams, senders) = (server.datagrams.clone(), server.senders.clone());
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::join!(
                    accept(&listener, id, &connections),
                    echo_datagrams(&socket, id, &datagrams, &senders)
                )
            })
        });
        Ok(server)
    }

    /// Every connection so far, oldest first.
    pub fn connections(&self) -> Vec<Connection> {
        let connections = self.connections.lock().expect("no thread panics");
        connections
            .iter()
            .map(|connection| connection.lock().expect("no thread panics").clone())
            .collect()
    }

    /// Datagrams echoed so far.
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }

    /// Where datagrams came from so far.
    pub fn senders(&self) -> BTreeSet<SocketAddr> {
        self.senders.lock().expect("no thread panics").clone()
    }
}

async fn accept(listener: &tokio::net::TcpListener, id: u64, connections: &Connections) {
    loop {
        // A client may be gone before it is accepted; that is no reason to stop.
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(process::TICK).await;
            continue;
        };
        eprintln!("connection from {peer}");
        let connection = Arc::new(Mutex::new(Connection {
            peer,
            frames: 0,
            stall: Duration::ZERO,
            fault: None,
            last: Instant::now(),
        }));
        connections
            .lock()
            .expect("no thread panics")
            .push(connection.clone());
        tokio::spawn(async move {
            let result = echo_frames(stream, id, &connection).await;
            let mut connection = connection.lock().expect("no thread panics");
            match result {
                Ok(()) => eprintln!("{peer} closed after {} frames", connection.frames),
                Err(error) => {
                    eprintln!("BROKEN {peer} after {} frames: {error}", connection.frames);
                    connection.fault = Some(error.to_string());
                }
            }
        });
    }
}

async fn echo_frames(
    mut stream: tokio::net::TcpStream,
    id: u64,
    connection: &Mutex<Connection>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (source, mut sink) = stream.split();
    let mut source = BufReader::new(source);
    let mut buffer = [0; SIZE];
    // A connection may end between two frames, but not within one.
    while source.read(&mut buffer[..1]).await? > 0 {
        source.read_exact(&mut buffer[1..]).await?;
        let frame = Frame::decode(&buffer).ok_or_else(|| broken("bytes that are no frame"))?;
        let counted = {
            let mut connection = connection.lock().expect("no thread panics");
            if connection.frames > 0 {
                connection.stall = connection.stall.max(connection.last.elapsed());
            }
            connection.last = Instant::now();
            connection.frames += 1;
            connection.frames
        };
        if frame.sequence != counted {
            let came = frame.sequence;
            return Err(broken(&format!(
                "frame {came} came where {counted} was due"
            )));
        }
        let echo = Frame {
            server: id,
            counted,
            ..frame
        };
        sink.write_all(&echo.encode()).await?;
    }
    Ok(())
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

async fn echo_datagrams(
    socket: &tokio::net::UdpSocket,
    id: u64,
    datagrams: &AtomicU64,
    senders: &Mutex<BTreeSet<SocketAddr>>,
) {
    // One byte more than a frame, so that a longer datagram is not mistaken for one.
    let mut buffer = [0; SIZE + 1];
    loop {
        // Errors here come from earlier echoes whose receiver is gone.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Some(frame) = Frame::decode(&buffer[..length]) else {
            continue;
        };
        let echo = Frame {
            server: id,
            counted: datagrams.fetch_add(1, Ordering::Relaxed) + 1,
            ..frame
        };
        senders.lock().expect("no thread panics").insert(peer);
        // A datagram that cannot be sent counts as lost, and the client counts those.
        let _ = socket.send_to(&echo.encode(), peer).await;
    }
}
