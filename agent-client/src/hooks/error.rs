//! Why a hook has not done what it is for.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a hook has not done what it is for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// There may be hooks that cannot be found.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than root could have put something else there.
    #[error("{} is not run: {why}", path.display())]
    NotTrusted {
        /// The hook, or the directory.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// It is no program.
    #[error("the hook {} cannot be run: {source}", path.display())]
    NotStarted {
        /// The hook.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has said no.
    #[error("the hook {} ended with {status}{}", path.display(), with_colon(said))]
    Failed {
        /// The hook.
        path: PathBuf,
        /// How it ended.
        status: String,
        /// What it said.
        said: String,
    },
    /// It has been killed.
    #[error("the hook {} was killed, because it took longer than {} s{}", path.display(), limit.as_secs(), with_colon(said))]
    TookTooLong {
        /// The hook.
        path: PathBuf,
        /// How long it may take.
        limit: Duration,
        /// What it said.
        said: String,
    },
    /// The migration was cancelled meanwhile.
    #[error("cancelled")]
    Cancelled,
}

fn with_colon(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!(": {said}"),
    }
}
