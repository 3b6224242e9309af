//! What systemd is told of this server: when it is ready, what it does, that it is alive. See sd_notify(3).
//!
//! Without `NOTIFY_SOCKET` in the environment nobody is told anything. The programs that this server starts do
//! not get that variable (`common::command`).

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::net::TcpListener;

/// What is shown by `systemctl status`, and the watchdog.
pub(crate) struct Supervisor {
    listening: String,
    /// How many migrations systemd believes to be under way.
    told: usize,
    /// How long the server may be silent; `None` if nobody watches it.
    watchdog: Option<Duration>,
    last: Instant,
}

impl Supervisor {
    /// Tells that the server takes calls from now on.
    pub(crate) fn ready(listener: &TcpListener) -> Self {
        let supervisor = Self {
            listening: match listener.local_addr() {
                Ok(address) => format!("listening on {address}"),
                Err(_) => "listening".to_owned(),
            },
            told: 0,
            watchdog: sd_notify::watchdog_enabled(),
            last: Instant::now(),
        };
        tell(&[
            NotifyState::Ready,
            NotifyState::Status(&supervisor.status(0)),
        ]);
        supervisor
    }

    /// Tells that the server is alive, and how many migrations are under way if that has changed. To be called
    /// by what would stand still if the server did, more often than the watchdog bites.
    pub(crate) fn alive(&mut self, under_way: usize) {
        if under_way != self.told {
            self.told = under_way;
            tell(&[NotifyState::Status(&self.status(under_way))]);
        }
        // Half of the limit, as sd_watchdog_enabled(3) recommends.
        if self
            .watchdog
            .is_some_and(|limit| self.last.elapsed() >= limit / 2)
        {
            self.last = Instant::now();
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// Tells that the server takes no more calls, and undoes what is under way.
    pub(crate) fn stopping(self, under_way: usize) {
        let status = format!("stopping: {} undone", migrations(under_way));
        tell(&[NotifyState::Stopping, NotifyState::Status(&status)]);
    }

    fn status(&self, under_way: usize) -> String {
        format!("{}, {} under way", self.listening, migrations(under_way))
    }
}

/// Tells what the server does before it takes calls.
pub(crate) fn starting(what: &str) {
    tell(&[NotifyState::Status(what)]);
}

fn migrations(number: usize) -> String {
    match number {
        0 => "no migration".to_owned(),
        1 => "1 migration".to_owned(),
        _ => format!("{number} migrations"),
    }
}

fn tell(what: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!("cannot tell systemd: {error}");
    }
}
