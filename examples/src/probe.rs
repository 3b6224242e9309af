//! The client side of the echo protocol: proves that one connection stays whole.
//!
//! A probe sends numbered frames at a steady pace without waiting for their echoes, so that during
//! a migration there are bytes on the way in both directions, and checks each echo as it comes.
//! It uses one socket and never opens another.

mod datagrams;
mod stream;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use datagrams::{Disorder, probe_datagrams};
pub use stream::{Fault, probe_stream};

/// How long echoes may still come after the last frame was sent.
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
    /// Frames whose echo came back whole.
    pub received: u64,
    /// The longest time without an echo.
    pub stall: Duration,
}

impl Seen {
    fn new(local: SocketAddr) -> Self {
        Self {
            local,
            server: None,
            sent: 0,
            received: 0,
            stall: Duration::ZERO,
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
