//! Places where a test can make an agent die, wait, or corrupt what it sends.
//!
//! None of this is compiled without the feature `failpoints`, which no shipped program has: the
//! functions are then empty, and the names are never built. With it, the environment variable
//! `FAILPOINTS` says what happens where, in the syntax of the crate `fail`:
//!
//! ```text
//! FAILPOINTS='client.phase.dump=return(kill);server.stage.after=1*off->return(hold)'
//! ```
//!
//! | action | what |
//! |---|---|
//! | `return(kill)` | SIGKILL to this process |
//! | `return(hold)` | creates the file [`HELD`]`/NAME` and waits until somebody removes it |
//! | `return(corrupt)` | in a bulk stream: flips one bit of what is sent |
//! | `return(skip)` | at `disk.files` nothing is synced, at `disk.records` neither |
//! | `return(always)` | does what is done only where it is worth it |
//! | `return(LIE)` | in place of a message another is sent: see [`crate::protocol::lies`] |
//!
//! The names are derived from the lists of phases and requests, so a new one automatically becomes
//! a place.

/// Directory of the files of agents that wait.
pub const HELD: &str = "/run/live-migration/held";

/// The agent has reached the place `name`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reached(_name: impl FnOnce() -> String) {}

/// Whether what is sent at the place `name` is to be corrupted.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn corrupts(_name: impl FnOnce() -> String) -> bool {
    false
}

/// Whether what is to be done at the place `name` is left out.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn skips(_name: &str) -> bool {
    false
}

/// Whether what is done at the place `name` is done even where it is not worth it.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn always(_name: impl FnOnce() -> String) -> bool {
    false
}

#[cfg(feature = "failpoints")]
pub use on::{always, corrupts, lie, reached, skips};

#[cfg(feature = "failpoints")]
mod on {
    use std::path::Path;
    use std::sync::Once;
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::HELD;

    /// The agent has reached the place `name`.
    pub fn reached(name: impl FnOnce() -> String) {
        let name = name();
        match asked(&name).as_deref() {
            Some("kill") => {
                let _ = kill(Pid::this(), Signal::SIGKILL);
            }
            Some("hold") => hold(&name),
            _ => {}
        }
    }

    /// Whether what is sent at the place `name` is to be corrupted.
    pub fn corrupts(name: impl FnOnce() -> String) -> bool {
        asked(&name()).as_deref() == Some("corrupt")
    }

    /// Whether what is to be done at the place `name` is left out.
    pub fn skips(name: &str) -> bool {
        asked(name).as_deref() == Some("skip")
    }

    /// How an agent is to lie at the place `name`, if it is.
    pub fn lie(name: &str) -> Option<String> {
        asked(name)
    }

    /// Whether what is done at the place `name` is done even where it is not worth it.
    pub fn always(name: impl FnOnce() -> String) -> bool {
        asked(&name()).as_deref() == Some("always")
    }

    fn asked(name: &str) -> Option<String> {
        static SET_UP: Once = Once::new();
        // Dropped, it would forget what the environment says.
        SET_UP.call_once(|| std::mem::forget(fail::FailScenario::setup()));
        fail::eval(name, |action| action.unwrap_or_default())
    }

    fn hold(name: &str) {
        let file = Path::new(HELD).join(name);
        let made = std::fs::create_dir_all(HELD).and_then(|()| std::fs::write(&file, ""));
        made.expect("a file can be made");
        while file.exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
