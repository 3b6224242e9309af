//! The echo server: TCP and UDP on the same port number.
//!
//! Over TCP it keeps state: how many frames each connection has carried. A frame whose number is
//! not the next one is a fault, and ends the connection.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::frame::{Frame, Frames, SIZE};
use crate::process;

/// An echo server with its threads. It logs to stderr.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its [identity](process::identity).
    pub id: u64,
    connections: Connections,
    datagrams: Arc<AtomicU64>,
}

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
    /// Those of binding the TCP and the UDP socket.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let socket = UdpSocket::bind(address)?;
        let server = Self {
            address,
            id: process::identity(),
            connections: Connections::default(),
            datagrams: Arc::default(),
        };

        let (id, connections) = (server.id, server.connections.clone());
        thread::spawn(move || accept(&listener, id, &connections));
        let datagrams = server.datagrams.clone();
        thread::spawn(move || echo_datagrams(&socket, id, &datagrams));
        Ok(server)
    }

    /// Every connection so far, the oldest first.
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
}

fn accept(listener: &TcpListener, id: u64, connections: &Connections) {
    loop {
        // A client may be gone before it is accepted; that is no reason to stop.
        let Ok((stream, peer)) = listener.accept() else {
            thread::sleep(process::TICK);
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
        thread::spawn(move || {
            let result = echo_frames(&stream, id, &connection);
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

fn echo_frames(mut stream: &TcpStream, id: u64, connection: &Mutex<Connection>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut frames = Frames::new(stream);
    while let Some(frame) = frames.read()? {
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
            let why = format!("frame {} came where {counted} was due", frame.sequence);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let echo = Frame {
            server: id,
            counted,
            ..frame
        };
        stream.write_all(&echo.encode())?;
    }
    Ok(())
}

fn echo_datagrams(socket: &UdpSocket, id: u64, datagrams: &AtomicU64) {
    // One byte more than a frame, so that a longer datagram is not taken for one.
    let mut buffer = [0; SIZE + 1];
    loop {
        // Errors here are those of earlier echoes whose receiver is gone.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
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
        // A datagram that cannot be sent is a lost one, and the client counts those.
        let _ = socket.send_to(&echo.encode(), peer);
    }
}
