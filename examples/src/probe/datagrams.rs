//! The probe over UDP.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Clock, DRAIN, Seen};
use crate::frame::{Frame, SIZE};
use crate::process::{self, Stop};

/// How long before its end the last echo may have come without the flow counting as dead.
const LATE: Duration = Duration::from_secs(2);

/// What can only happen to datagrams.
#[derive(Debug, Default)]
pub struct Disorder {
    /// Echoes that came more than once.
    pub repeated: u64,
    /// Echoes that came after a later one.
    pub reordered: u64,
    /// Datagrams that are not frames.
    pub corrupted: u64,
    /// Echoes from another process than the first, or from one that forgot its count.
    pub other_server: u64,
    /// The flow had echoes until its end.
    pub alive: bool,
}

/// Sends `server` a datagram every `interval` over `socket`, connected or not, until `stop`, at least
/// one, then waits for the echoes still due. `on_echo` gets the round trip of each echo.
///
/// # Errors
/// Those of setting up the socket. A datagram that cannot be sent, or that the other side refuses,
/// counts as lost.
pub fn probe_datagrams(
    socket: &UdpSocket,
    server: SocketAddr,
    interval: Duration,
    stop: &Stop,
    on_echo: impl FnMut(Duration),
) -> io::Result<(Seen, Disorder)> {
    socket.set_read_timeout(Some(process::TICK))?;
    let mut seen = Seen::new(socket.local_addr()?);
    let clock = Clock(Instant::now());
    let (sent, ended) = (AtomicU64::new(0), AtomicBool::new(false));

    let disorder = thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let frame = Frame {
                    sequence: sent.load(Ordering::Relaxed) + 1,
                    sent_ns: clock.now_ns(),
                    ..Frame::default()
                };
                let _ = socket.send_to(&frame.encode(), server);
                sent.store(frame.sequence, Ordering::Relaxed);
                thread::sleep(interval);
                if stop.is_set() {
                    break;
                }
            }
            ended.store(true, Ordering::Release);
        });
        // The sender may be about to send another one when the end comes.
        let are_all =
            |echoes: u64| ended.load(Ordering::Acquire) && echoes == sent.load(Ordering::Relaxed);
        receive(socket, clock, stop, are_all, &mut seen, on_echo)
    });
    seen.sent = sent.into_inner();
    Ok((seen, disorder))
}

/// `are_all` says whether so many echoes are all that can come.
fn receive(
    socket: &UdpSocket,
    clock: Clock,
    stop: &Stop,
    are_all: impl Fn(u64) -> bool,
    seen: &mut Seen,
    mut on_echo: impl FnMut(Duration),
) -> Disorder {
    let mut disorder = Disorder::default();
    let mut echoes = Echoes::default();
    let mut counted = 0;
    let mut last = Instant::now();
    let mut stopped = None;
    let mut buffer = [0; SIZE + 1];
    loop {
        if stop.is_set() {
            let stopped = *stopped.get_or_insert_with(Instant::now);
            // A lost datagram never comes, so wait only briefly.
            let all = are_all(seen.received);
            if stopped.elapsed() > if all { 2 * process::TICK } else { DRAIN / 4 } {
                disorder.alive = seen.received > 0 && (all || last + LATE > stopped);
                return disorder;
            }
        }
        let received = socket.recv(&mut buffer);
        if received.is_ok() || !stop.is_set() {
            seen.stall = seen.stall.max(last.elapsed());
        }
        let Ok(length) = received else {
            continue;
        };
        let Some(echo) = Frame::decode(&buffer[..length]) else {
            disorder.corrupted += 1;
            continue;
        };
        last = Instant::now();
        match echoes.add(echo.sequence) {
            Order::Next => {
                // The server counts up, and the network only reorders what is late anyway.
                if *seen.server.get_or_insert(echo.server) != echo.server || echo.counted <= counted
                {
                    disorder.other_server += 1;
                }
                counted = echo.counted;
            }
            Order::Late => disorder.reordered += 1,
            Order::Again => {
                disorder.repeated += 1;
                continue;
            }
        }
        seen.received += 1;
        on_echo(clock.since(echo.sent_ns));
    }
}

enum Order {
    Next,
    Late,
    Again,
}

/// The numbers of the echoes that have come.
#[derive(Default)]
struct Echoes {
    highest: u64,
    /// Those below `highest` that have not come.
    missing: HashSet<u64>,
}

impl Echoes {
    fn add(&mut self, sequence: u64) -> Order {
        if sequence > self.highest {
            self.missing.extend(self.highest + 1..sequence);
            self.highest = sequence;
            Order::Next
        } else if self.missing.remove(&sequence) {
            Order::Late
        } else {
            Order::Again
        }
    }
}
