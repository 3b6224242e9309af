//! The client side of the echo protocol: proves that one connection stays whole.
//!
//! A probe sends numbered frames at a steady pace without waiting for their echoes, so that during
//! a migration bytes are under way in both directions, and checks each echo as it arrives. It uses
//! one socket and never opens another.

mod datagrams;
mod stream;

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

pub use datagrams::{Disorder, probe_datagrams};
pub use stream::{Fault, probe_stream};

/// How long echoes may still arrive after the last frame was sent.
const DRAIN: Duration = Duration::from_secs(20);

/// What a probe saw, whether or not it went well.
#[derive(Debug)]
pub struct Seen {
    /// Our end of the connection.
    pub local: SocketAddr,
    /// The server's [identity](crate::process::identity), from its first echo.
    pub server: Option<u64>,
    /// Frames sent.
    pub sent: u64,
    /// Frames whose echo came back intact.
    pub received: u64,
    /// The longest time without an echo.
    pub stall: Duration,
    /// The longest wait; only over TCP, where every frame has its echo.
    pub wait: Option<Wait>,
}

/// A time in which frames were under way and no echo came. Unlike a stall, it does not include any
/// of the interval between two frames.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// When it began.
    pub start: SystemTime,
    /// How long it was.
    pub duration: Duration,
}

impl Wait {
    /// One of this length that ends now.
    pub fn that_took(duration: Duration) -> Self {
        let now = SystemTime::now();
        Self {
            start: now.checked_sub(duration).unwrap_or(now),
            duration,
        }
    }

    /// The longer of the two, or the first if they are equal.
    pub fn longer(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(a), Some(b)) if b.duration > a.duration => Some(b),
            (one, other) => one.or(other),
        }
    }
}

impl Seen {
    fn new(local: SocketAddr) -> Self {
        Self {
            local,
            server: None,
            sent: 0,
            received: 0,
            stall: Duration::ZERO,
            wait: None,
        }
    }

    /// Frames without an echo.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

/// The clock of one probe.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now_ns(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn since(self, sent_ns: u64) -> Duration {
        Duration::from_nanos(self.now_ns().saturating_sub(sent_ns))
    }
}
