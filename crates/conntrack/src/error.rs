use std::{fmt, io};

use netlink_packet_core::DecodeError;

use crate::tuple::Tuple;

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the kernel's table could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller lacks `CAP_NET_ADMIN` over the network namespace.
    #[error("{0}: not permitted (CAP_NET_ADMIN is needed)")]
    Permission(Attempt),
    /// No such entry; it may have ended a moment ago.
    #[error("{0}: no such entry")]
    NotFound(Attempt),
    /// One of the two tuples already belongs to an entry in the table.
    #[error("{0}: an entry with one of these tuples exists")]
    Exists(Attempt),
    /// The kernel was built without a feature this needs, or it refuses the change for a live
    /// entry.
    #[error("{0}: not supported by this kernel")]
    Unsupported(Attempt),
    /// The flow cannot be expressed to the kernel; nothing was sent.
    #[error("{attempt}: {reason}")]
    Invalid {
        /// What was attempted.
        attempt: Attempt,
        /// What is wrong with the flow.
        reason: &'static str,
    },
    /// The kernel refused for another reason, or the socket failed.
    #[error("{attempt}: {source}")]
    Kernel {
        /// What was attempted.
        attempt: Attempt,
        /// The errno.
        source: io::Error,
    },
    /// The kernel sent something that is not a conntrack message.
    #[error("{attempt}: cannot understand the kernel's answer: {reason}")]
    Malformed {
        /// What was attempted.
        attempt: Attempt,
        /// What is wrong with the message.
        reason: String,
    },
}

impl Error {
    pub(crate) fn from_io(attempt: Attempt, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Permission(attempt),
            Some(libc::ENOENT) => Self::NotFound(attempt),
            Some(libc::EEXIST) => Self::Exists(attempt),
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
                Self::Unsupported(attempt)
            }
            _ => Self::Kernel { attempt, source },
        }
    }

    pub(crate) fn malformed(attempt: Attempt, error: &DecodeError) -> Self {
        Self::Malformed {
            attempt,
            reason: error.to_string(),
        }
    }
}

/// What was being attempted when an error occurred; named in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    verb: &'static str,
    tuple: Option<Tuple>,
}

impl Attempt {
    pub(crate) fn new(verb: &'static str) -> Self {
        Self { verb, tuple: None }
    }

    pub(crate) fn on(verb: &'static str, tuple: Tuple) -> Self {
        Self {
            verb,
            tuple: Some(tuple),
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb)?;
        match self.tuple {
            Some(tuple) => write!(f, " {tuple}"),
            None => Ok(()),
        }
    }
}
