//! Authorizes connections to the ports that the agents open inside a tunnel.
//!
//! WireGuard proves that a packet comes from the other host. The ticket, which only the agents know,
//! keeps out everything else on that host (a container, a local user) that can reach the tunnel's
//! addresses.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};

/// Bytes of a ticket.
pub const BYTES: usize = 32;

/// 256 random bits that entitle their bearer to connect.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket([u8; BYTES]);

impl Ticket {
    /// A new random ticket.
    pub fn random() -> Self {
        Ticket(rand::random())
    }

    /// The bytes to present.
    pub fn bytes(&self) -> &[u8; BYTES] {
        &self.0
    }

    /// Whether this is the ticket that was presented; takes the same time wherever they differ.
    pub fn is(&self, presented: [u8; BYTES]) -> bool {
        // blake3 compares hashes in constant time.
        blake3::Hash::from_bytes(presented) == blake3::Hash::from_bytes(self.0)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(…)")
    }
}

impl Serialize for Ticket {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Ticket {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let bytes = STANDARD_NO_PAD
            .decode(String::deserialize(deserializer)?)
            .map_err(D::Error::custom)?;
        bytes
            .try_into()
            .map(Ticket)
            .map_err(|_| D::Error::custom("a ticket has 32 bytes"))
    }
}
