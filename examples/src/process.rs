//! What every program here needs as a process: an identity, and a way to stop it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

/// How often a waiting thread checks its [`Stop`].
pub const TICK: Duration = Duration::from_millis(100);

/// A random number chosen at start, never zero. A peer that sees it again is talking to the same
/// process; a restarted program has another one.
pub fn identity() -> u64 {
    RandomState::new().hash_one(0) | 1
}

/// Set once the program should end.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A flag that is set by SIGTERM and SIGINT. The second signal ends the process at once.
    ///
    /// Call it before the first thread starts: the signals are blocked in this thread and those it
    /// spawns, and received by a single thread. As process 1, which these programs are in a
    /// container, the kernel drops signals that have no handler, but not blocked ones.
    pub fn on_signals() -> nix::Result<Self> {
        let stop = Self::default();
        let setter = stop.clone();
        each_signal(move || {
            if setter.0.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        })?;
        Ok(stop)
    }

    /// Sets the flag.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the program should end.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits until the flag is set, and sets it once `limit` has passed.
    pub fn wait(&self, limit: Option<Duration>) {
        let start = Instant::now();
        while !self.is_set() {
            let left = limit.map_or(TICK, |limit| limit.saturating_sub(start.elapsed()));
            if left.is_zero() {
                self.set();
            }
            thread::sleep(left.min(TICK));
        }
    }
}

/// Makes SIGTERM and SIGINT end the process with status 0, as [`Stop::on_signals`] says.
pub fn exit_on_signals() -> nix::Result<()> {
    each_signal(|| std::process::exit(0))
}

fn each_signal(mut act: impl FnMut() + Send + 'static) -> nix::Result<()> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    thread::spawn(move || {
        while signals.wait().is_ok() {
            act();
        }
    });
    Ok(())
}
