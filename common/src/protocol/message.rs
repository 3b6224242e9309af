//! Requests and replies.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use strum::EnumDiscriminants;

use super::id::MigrationId;
use super::version::Versions;
use crate::container::ContainerFacts;
use crate::host::HostFacts;
use crate::net::flows::decide::MovedFlow;
use crate::net::tunnel::agreement::{Offer, Terms};
use crate::preflight::Check;
use crate::ticket::Ticket;

/// What a bulk stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamKind {
    /// `podman save` of the container's image, for `podman load`.
    Image,
    /// Podman's checkpoint archive without memory: configuration only.
    Skeleton,
    /// Files of volumes of the running container, as a tar of [`crate::container::files::payload`].
    Volumes,
    /// Files of the running container, as a tar of [`crate::container::files::payload`].
    Files,
    /// CRIU's images and the files changed since, as a tar of [`crate::container::files::payload`].
    Checkpoint,
    /// Pages of the container's processes ([`memory::stream`]), from before the freeze into the outage. Its end
    /// is announced with [`Request::MemoryEnd`], and other streams pass meanwhile.
    Memory,
}

/// Length and BLAKE3 digest of a whole stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamDigest {
    /// Bytes in the stream.
    pub bytes: u64,
    /// BLAKE3 of those bytes.
    #[serde(with = "hex_digest")]
    pub blake3: [u8; 32],
}

mod hex_digest {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(d: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(blake3::Hash::from_bytes(*d).to_hex().as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(d)?;
        blake3::Hash::from_hex(&text)
            .map(|h| *h.as_bytes())
            .map_err(D::Error::custom)
    }
}

/// What the source asks of the destination.
#[derive(Debug, Serialize, Deserialize, EnumDiscriminants)]
#[serde(tag = "request", rename_all = "snake_case")]
#[strum_discriminants(
    name(RequestName),
    doc = "A request without its content.",
    derive(strum::VariantArray, strum::IntoStaticStr),
    strum(serialize_all = "snake_case"),
    allow(missing_docs)
)]
pub enum Request {
    /// First message on every connection.
    Hello {
        /// Protocol versions the source speaks.
        versions: Versions,
        /// Software version, for messages only.
        #[serde(deserialize_with = "super::text::one")]
        software: String,
        /// The source's host name, for messages only.
        #[serde(deserialize_with = "super::text::one")]
        host: String,
    },
    /// Redeems an invitation; the only request open to an unpaired peer.
    Pair {
        /// The secret from the invitation's token.
        secret: trust::Secret,
        /// The name this host wants to be listed under.
        #[serde(deserialize_with = "super::text::one")]
        name: String,
    },
    /// Asks whether this container could come; changes nothing.
    Check {
        /// The container.
        container: Box<ContainerFacts>,
        /// The source host.
        source: Box<HostFacts>,
        /// Whether new connections to the source are to follow it.
        forward_new: bool,
    },
    /// Opens a migration. Reserves the container's id at the destination until it ends.
    Begin {
        /// Its id, chosen by the source.
        migration: MigrationId,
        /// The container.
        container: Box<ContainerFacts>,
        /// The source host.
        source: Box<HostFacts>,
    },
    /// Asks for a tunnel.
    OpenTunnel {
        /// The addresses and numbers that the source has in use, and its WireGuard public key.
        offer: Offer,
    },
    /// The source's end is configured: prove that a handshake works.
    ProveTunnel,
    /// Announces a bulk stream, whose connection may follow at once.
    Receive {
        /// Number of the stream, unique within the migration.
        stream: u32,
        /// What it contains.
        kind: StreamKind,
    },
    /// The stream that was announced last has been written to its end.
    StreamEnd {
        /// What was written.
        digest: StreamDigest,
    },
    /// The stream of memory has been written to its end.
    MemoryEnd {
        /// What was written.
        digest: StreamDigest,
    },
    /// Create the container's record, storage and network, and wait at the gate.
    Stage,
    /// Flows to install before the restore, in batches of at most [`FLOWS_PER_BATCH`]. Those that
    /// already pass through the destination keep their path until `Redirect`.
    Flows {
        /// This batch.
        flows: Vec<MovedFlow>,
    },
    /// From here on, packets of the flows that pass through the destination go to its copy.
    Redirect,
    /// Open the gate: restore, with all network output held back.
    Restore,
    /// The destination's copy is the container from here on.
    Commit,
    /// Undo everything since `Begin`.
    Abort {
        /// Why, for the destination's log.
        #[serde(deserialize_with = "super::text::one")]
        reason: String,
    },
    /// Asks what became of a migration, after a lost connection.
    Fate {
        /// Which.
        migration: MigrationId,
    },
    /// After a migration: asks for a tunnel to the host where flows of the container enter, so that
    /// they can bypass the source (see [`crate::net::tunnel::bypass`]).
    Introduce {
        /// That host's offer.
        offer: Offer,
        /// Its address.
        address: IpAddr,
    },
}

/// Most flows in one [`Request::Flows`]; keeps the frame below its limit.
pub const FLOWS_PER_BATCH: usize = 500;

/// What the destination answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To `Hello`.
    Welcome {
        /// The version both will speak.
        version: u32,
        /// Software version, for messages only.
        #[serde(deserialize_with = "super::text::one")]
        software: String,
        /// The destination's host name, for messages only.
        #[serde(deserialize_with = "super::text::one")]
        host: String,
        /// Whether this peer is paired; if not, only `Pair` is legal.
        paired: bool,
    },
    /// To `Pair`.
    Paired,
    /// To `Check`.
    Checked {
        /// The results of the checks.
        checks: Vec<Check>,
        /// How much memory programs can still have at the destination; 0 if that is not known.
        #[serde(default)]
        available_bytes: u64,
    },
    /// To `Begin`.
    Begun {
        /// What the source needs to know about the image if it must be sent.
        missing_image: Option<MissingImage>,
        /// How many bytes of memory may come ahead of the checkpoint; none to a destination that does not
        /// say.
        #[serde(default)]
        memory_bytes: u64,
    },
    /// To `OpenTunnel`.
    TunnelOpened {
        /// What the destination chose.
        terms: Terms,
    },
    /// To `ProveTunnel`.
    TunnelProven {
        /// Where bulk streams go, inside the tunnel.
        data: SocketAddr,
        /// Authorizes the bulk streams of this migration.
        ticket: Ticket,
    },
    /// To `Receive`.
    Receiving,
    /// To `StreamEnd` and `MemoryEnd`: length and digest agree, and the data is in place.
    Received {
        /// What the destination could not accept of it, in sentences for the operator.
        #[serde(deserialize_with = "super::text::many")]
        warnings: Vec<String>,
    },
    /// To `Stage`: Podman waits at the gate.
    Staged {
        /// What happens to packets that arrive before the commit.
        packets: Packets,
    },
    /// To `Flows`.
    FlowsInstalled {
        /// How many flows, of all batches, already pass through the destination and wait for
        /// `Redirect`.
        waiting: usize,
    },
    /// To `Redirect`.
    Redirected,
    /// To `Restore`: the processes run, but nothing they send leaves.
    Restored {
        /// What of the container could not be restored, in sentences for the operator.
        #[serde(default, deserialize_with = "super::text::many")]
        warnings: Vec<String>,
    },
    /// To `Commit`.
    Committed,
    /// To `Abort`: the destination is as it was before `Begin`.
    Aborted {
        /// What could not be undone, if anything.
        #[serde(deserialize_with = "super::text::many")]
        leftovers: Vec<String>,
    },
    /// To `Fate`.
    Fate {
        /// What became of it.
        fate: Fate,
    },
    /// To `Introduce`: this end of the tunnel is up.
    Introduced {
        /// What the destination chose.
        terms: Terms,
    },
    /// The request was refused or has failed.
    Refused(Refused),
}

impl Reply {
    /// Whether this can be the answer to a request.
    pub fn answers(&self, request: RequestName) -> bool {
        use RequestName::*;
        match self {
            Reply::Welcome { .. } => request == Hello,
            Reply::Paired => request == Pair,
            Reply::Checked { .. } => request == Check,
            Reply::Begun { .. } => request == Begin,
            Reply::TunnelOpened { .. } => request == OpenTunnel,
            Reply::TunnelProven { .. } => request == ProveTunnel,
            Reply::Receiving => request == Receive,
            Reply::Received { .. } => matches!(request, StreamEnd | MemoryEnd),
            Reply::Staged { .. } => request == Stage,
            Reply::FlowsInstalled { .. } => request == Flows,
            Reply::Redirected => request == Redirect,
            Reply::Restored { .. } => request == Restore,
            Reply::Committed => request == Commit,
            Reply::Aborted { .. } => request == Abort,
            Reply::Fate { .. } => request == RequestName::Fate,
            Reply::Introduced { .. } => request == Introduce,
            Reply::Refused(_) => true,
        }
    }
}

/// An image that the destination lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingImage {
    /// Those of its layers that the destination already has: they need not be sent.
    pub layers_present: Vec<String>,
}

/// What happens to packets for the container, and to its own, during the outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packets {
    /// They wait at the destination, in order, until the commit.
    Held,
    /// They are dropped; their senders have to send them again.
    Dropped,
}

/// What became of a migration at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The container runs at the destination. What it has on disk at the source may be in memory only there.
    Committed,
    /// The container runs at the destination, and what came with it is on disk: the source's copy is not
    /// needed any more.
    OnDisk,
    /// Undone; nothing of it runs at the destination.
    RolledBack,
    /// Still under way.
    UnderWay,
    /// The destination never heard of it.
    Unknown,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// Class of the refusal.
    pub code: RefusalCode,
    /// For a person: what is wrong and what to do next.
    #[serde(deserialize_with = "super::text::one")]
    pub message: String,
    /// Where the destination keeps more details (a log file), if anywhere.
    #[serde(deserialize_with = "super::text::maybe")]
    pub log: Option<String>,
}

impl Refused {
    /// A refusal without a log.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Refused {
            code,
            message: message.into(),
            log: None,
        }
    }
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// No protocol version in common.
    Version,
    /// The message is not legal in this state.
    Protocol,
    /// The peer is not paired, or its invitation does not hold.
    NotPaired,
    /// A preflight check fails.
    Preflight,
    /// Another migration holds the container here.
    Busy,
    /// A stream's length or digest does not agree.
    Corrupt,
    /// A step failed on the destination.
    Failed,
    /// The migration was cancelled.
    Cancelled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migration_ids_are_hex_only() {
        let id = MigrationId::random();
        assert_eq!(id.as_str().parse::<MigrationId>().unwrap(), id);
        for bad in [
            "",
            "../../etc/passwd",
            "0123456789abcdeF",
            "0123456789abcde",
        ] {
            assert!(bad.parse::<MigrationId>().is_err(), "{bad}");
            assert!(serde_json::from_str::<MigrationId>(&format!("{bad:?}")).is_err());
        }
    }

    #[test]
    fn digests_travel_as_hex() {
        let digest = StreamDigest {
            bytes: 3,
            blake3: *blake3::hash(b"abc").as_bytes(),
        };
        let json = serde_json::to_string(&digest).unwrap();
        assert!(
            json.contains(blake3::hash(b"abc").to_hex().as_str()),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<StreamDigest>(&json).unwrap(), digest);
    }
}
