//! The probe over TCP.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Clock, DRAIN, Seen, Wait};
use crate::frame::{Frame, Frames};
use crate::process::{self, Stop};

/// Why a connection is no longer whole.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Echoes are missing.
    #[error("echo {got} came where {due} was due: lost")]
    Lost {
        /// The number that had to come.
        due: u64,
        /// The number that came.
        got: u64,
    },
    /// An echo came twice, or late.
    #[error("echo {got} came where {due} was due: repeated")]
    Repeated {
        /// The number that had to come.
        due: u64,
        /// The number that came.
        got: u64,
    },
    /// The bytes are not what the server sent: some lost, added or changed.
    #[error("after echo {0}: bytes that are no frame")]
    Corrupted(u64),
    /// Another process answers on the connection, or the same with other memory than before.
    #[error("after echo {0}: the server is not the same, or forgot its count")]
    OtherServer(u64),
    /// The connection broke.
    #[error("after echo {after}: {error}")]
    Reset {
        /// The last good echo.
        after: u64,
        /// What the socket reported.
        error: io::Error,
    },
    /// The server closed the connection before it had echoed all frames.
    #[error("after echo {0}: closed by the server")]
    Closed(u64),
    /// No echo came within the time limit.
    #[error("after echo {0}: silent")]
    Silent(u64),
}

/// Sends a frame every `interval` until `stop`, at least one, then half-closes the connection, waits
/// for the echoes still due, and closes it. `on_echo` gets the round trip of each echo.
///
/// The returned fault is the first one; it ends the probe.
pub fn probe_stream(
    stream: &TcpStream,
    interval: Duration,
    stop: &Stop,
    on_echo: impl FnMut(Duration),
) -> (Seen, Option<Fault>) {
    let mut seen = match prepare(stream) {
        Ok(seen) => seen,
        Err(error) => {
            let nowhere = Seen::new((std::net::Ipv4Addr::UNSPECIFIED, 0).into());
            return (nowhere, Some(Fault::Reset { after: 0, error }));
        }
    };
    let clock = Clock(Instant::now());
    let (sent, ended) = (AtomicU64::new(0), AtomicBool::new(false));

    let fault = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            send(stream, interval, clock, &sent, || {
                stop.is_set() || ended.load(Ordering::Relaxed)
            })
        });
        let result = receive(stream, clock, stop, &mut seen, on_echo);
        ended.store(true, Ordering::Relaxed);
        // Also unblocks the sender if the peer no longer reads.
        let _ = stream.shutdown(Shutdown::Both);
        let written = sender.join().expect("the sender does not panic");
        result
            .err()
            .map(|fault| with_error_of_write(fault, written))
    });
    seen.sent = sent.into_inner();
    let fault = fault.or((seen.lost() > 0).then_some(Fault::Closed(seen.received)));
    (seen, fault)
}

/// A socket reports a reset once, to whichever call comes first (`sock_error` in the kernel's
/// `include/net/sock.h`). If that was a write, the following read looks like an orderly end.
fn with_error_of_write(fault: Fault, written: io::Result<()>) -> Fault {
    match (fault, written) {
        (Fault::Closed(after), Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
            Fault::Reset { after, error }
        }
        (fault, _) => fault,
    }
}

fn prepare(stream: &TcpStream) -> io::Result<Seen> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(process::TICK))?;
    Ok(Seen::new(stream.local_addr()?))
}

fn send(
    mut stream: &TcpStream,
    interval: Duration,
    clock: Clock,
    sent: &AtomicU64,
    done: impl Fn() -> bool,
) -> io::Result<()> {
    loop {
        let frame = Frame {
            sequence: sent.load(Ordering::Relaxed) + 1,
            sent_ns: clock.now_ns(),
            ..Frame::default()
        };
        stream.write_all(&frame.encode())?;
        sent.store(frame.sequence, Ordering::Relaxed);
        thread::sleep(interval);
        if done() {
            break;
        }
    }
    stream.shutdown(Shutdown::Write)
}

/// Checks echoes until the server closes the connection.
fn receive(
    stream: &TcpStream,
    clock: Clock,
    stop: &Stop,
    seen: &mut Seen,
    mut on_echo: impl FnMut(Duration),
) -> Result<(), Fault> {
    let mut frames = Frames::new(stream);
    let mut last = Instant::now();
    let mut stopped = None;
    loop {
        let next = frames.read();
        seen.stall = seen.stall.max(last.elapsed());
        let echo = match next {
            Ok(Some(echo)) => echo,
            Ok(None) if stop.is_set() => return Ok(()),
            Ok(None) => return Err(Fault::Closed(seen.received)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock if !stop.is_set() => continue,
                io::ErrorKind::WouldBlock => {
                    if stopped.get_or_insert_with(Instant::now).elapsed() > DRAIN {
                        return Err(Fault::Silent(seen.received));
                    }
                    continue;
                }
                io::ErrorKind::InvalidData => return Err(Fault::Corrupted(seen.received)),
                _ => {
                    let after = seen.received;
                    return Err(Fault::Reset { after, error });
                }
            },
        };
        let trip = clock.since(echo.sent_ns);
        let wait = Wait::that_took(trip.min(last.elapsed()));
        last = Instant::now();
        check(&echo, seen)?;
        seen.received = echo.sequence;
        seen.wait = Wait::longer(seen.wait, Some(wait));
        on_echo(trip);
    }
}

/// Checks that `echo` is the one due after those in `seen`.
fn check(echo: &Frame, seen: &mut Seen) -> Result<(), Fault> {
    let (got, due) = (echo.sequence, seen.received + 1);
    if got > due {
        return Err(Fault::Lost { due, got });
    }
    if got < due {
        return Err(Fault::Repeated { due, got });
    }
    if *seen.server.get_or_insert(echo.server) != echo.server || echo.counted != due {
        return Err(Fault::OtherServer(seen.received));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_that_a_write_was_told_of_is_a_reset() {
        let told = |kind: io::ErrorKind| with_error_of_write(Fault::Closed(9), Err(kind.into()));
        let fault = told(io::ErrorKind::ConnectionReset);
        assert!(matches!(fault, Fault::Reset { after: 9, .. }), "{fault}");
        // After an orderly end writes fail as well, but with another error.
        let fault = told(io::ErrorKind::BrokenPipe);
        assert!(matches!(fault, Fault::Closed(9)), "{fault}");
    }
}
