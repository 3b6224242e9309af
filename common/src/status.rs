//! What `status` shows of this host.

use serde::{Deserialize, Serialize};

use crate::net::flows::FlowCount;

/// A live tunnel and what it carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// Interface name.
    pub interface: String,
    /// `kernel` or `userspace`.
    pub backend: String,
    /// The peer's endpoint.
    pub endpoint: String,
    /// Seconds since the last handshake, if there was one.
    pub handshake_age_s: Option<u64>,
    /// Flows that take it in either direction.
    pub flows: FlowCount,
}
