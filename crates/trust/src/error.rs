//! What can go wrong with the files that hold trust.

use std::{io, path::PathBuf};

use crate::{fingerprint::Fingerprint, invites::Refusal};

/// An identity, a list of peers or an invitation could not be read, changed or used.
///
/// Whatever the error, the file it is about is unchanged. If a variant has a source, that says
/// more: show the whole chain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },

    /// Users other than the owner can access a file, or write to a directory, that trust rests on.
    #[error(
        "{path} is open to other users (mode {mode:03o}): \
         make sure that nobody has tampered with it, then run `chmod go-rwx {path}`"
    )]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },

    /// The key file does not hold a usable private key.
    #[error("{path} does not hold a usable private key ({reason})")]
    Key {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A file does not hold what this program writes there. It is left unchanged.
    #[error("{path} is damaged: repair it, or move it away to start afresh")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the text stops making sense.
        source: serde_json::Error,
    },

    /// A name that could not be shown or typed safely.
    #[error(
        "{name:?} cannot be the name of a host: \
         use up to 253 letters, digits, dots, dashes and underscores"
    )]
    Name {
        /// The name.
        name: String,
    },

    /// Another key is pinned for the address of a peer that was to be added.
    #[error(
        "{address} is already paired under another key ({fingerprint}): \
         if it was reinstalled, remove the peer {name} and pair again"
    )]
    Pinned {
        /// The address.
        address: String,
        /// The name under which it is pinned.
        name: String,
        /// The key that is pinned.
        fingerprint: Fingerprint,
    },

    /// Nothing in the list of peers matches.
    #[error("no peer has the name, the address or the fingerprint {wanted}")]
    NoSuchPeer {
        /// What was looked for.
        wanted: String,
    },

    /// More than one peer matches, so none was changed.
    #[error("{wanted} may mean any of these peers, give a fingerprint instead: {}", list(.matches))]
    Ambiguous {
        /// What was looked for.
        wanted: String,
        /// The keys of the peers that it matches.
        matches: Vec<Fingerprint>,
    },

    /// An invitation's secret was not accepted.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

fn list(fingerprints: &[Fingerprint]) -> String {
    let shown: Vec<_> = fingerprints.iter().map(Fingerprint::to_string).collect();
    shown.join(", ")
}
