//! What `agent-client migrate --format json` prints. Documented in docs/report.md; a change that a
//! reader cannot ignore raises [`VERSION`].

use serde::{Deserialize, Serialize};
use strum::VariantArray;

use crate::net::flows::decide::FlowCount;
use crate::protocol::{ContainerRef, MigrationId, Packets};

/// Version of the format.
pub const VERSION: u32 = 2;

/// The result of one `migrate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// The migration's id on both hosts; absent if none was begun.
    pub migration_id: Option<MigrationId>,
    /// The container; absent if it was not found.
    pub container: Option<ContainerRef>,
    /// Name of this host.
    pub source: String,
    /// The destination as given.
    pub destination: String,
    /// What became of the migration.
    pub outcome: Outcome,
    /// What was done, in order.
    pub phases: Vec<Phase>,
    /// From the moment that packets for the container no longer reached it on this host until the
    /// destination answered for it; 0 if it never came to that.
    pub freeze_ms: u64,
    /// What `check` says beforehand that it will be; 0 if it did not come to that.
    #[serde(default)]
    pub estimated_freeze_ms: u64,
    /// Bytes sent on bulk streams.
    pub sent_bytes: u64,
    /// Flows that moved with the container.
    pub flows: FlowCount,
    /// How many of them had come through another host and no longer pass through this one, because
    /// that host now knows the destination.
    pub bypassed: usize,
    /// Ports here whose new connections follow the container (`--forward-new`), as Podman prints them.
    pub forwarded_ports: Vec<String>,
    /// The tunnel used, if it came to that.
    pub tunnel: Option<Tunnel>,
    /// The memory that went ahead of the outage, if it did.
    pub memory: Option<Memory>,
    /// What happened to packets for the container meanwhile, if it came to that.
    pub packets: Option<Packets>,
    /// What else was done that a user of the host may notice.
    pub notes: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// Outcome of a migration, as seen by the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// The container runs at the destination.
    Moved,
    /// It failed, or was cancelled; the container runs at the source.
    Failed,
    /// Preflight or a hook refused; nothing was changed.
    Refused,
    /// `--dry-run`: nothing was changed, and nothing prevents the migration.
    Possible,
    /// An operator must look: it is not known where the container runs, or something could not be
    /// put back.
    Unknown,
}

impl Outcome {
    /// The exit status for it.
    pub fn exit_status(self) -> u8 {
        match self {
            Outcome::Moved | Outcome::Possible => 0,
            Outcome::Failed => 1,
            Outcome::Unknown => 3,
            Outcome::Refused => 4,
        }
    }
}

/// A phase and when it took place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Which one.
    pub name: PhaseName,
    /// Start, from the start of the command.
    pub start_ms: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// Bytes sent in it.
    pub bytes: u64,
}

/// The phases, in order.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, VariantArray, strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum PhaseName {
    /// Connection and handshake with the destination's agent.
    Connect,
    /// Both hosts checked.
    Preflight,
    /// Tunnel up and proven.
    Tunnel,
    /// Image sent, if it was missing.
    Image,
    /// Volumes sent while the container runs.
    Volumes,
    /// Memory sent while the container runs.
    Memory,
    /// Destination brought to the gate.
    Stage,
    /// Changed files sent while the container runs.
    Files,
    /// Flows installed at the destination.
    Flows,
    /// Flows redirected, container frozen, its network silenced.
    Freeze,
    /// Memory written by CRIU.
    Dump,
    /// Images and changed files sent.
    Ship,
    /// Processes restored at the destination, output held back.
    Restore,
    /// Commit.
    CutOver,
    /// Old container removed.
    Remove,
    /// Everything undone after a failure.
    RollBack,
}

impl PhaseName {
    /// Its name for people.
    pub fn describe(self) -> &'static str {
        match self {
            PhaseName::Connect => "connect",
            PhaseName::Preflight => "preflight",
            PhaseName::Tunnel => "tunnel",
            PhaseName::Image => "send image",
            PhaseName::Volumes => "send volumes",
            PhaseName::Stage => "prepare destination",
            PhaseName::Freeze => "freeze",
            PhaseName::Files => "send files",
            PhaseName::Memory => "send memory",
            PhaseName::Dump => "dump memory",
            PhaseName::Ship => "send checkpoint",
            PhaseName::Flows => "install flows",
            PhaseName::Restore => "restore",
            PhaseName::CutOver => "cut over",
            PhaseName::Remove => "remove old container",
            PhaseName::RollBack => "roll back",
        }
    }
}

/// The tunnel as reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// `kernel` or `userspace`, at the source.
    pub backend: String,
    /// Its interface at the source.
    pub interface: String,
    /// Whether it was already there.
    pub reused: bool,
}

/// Memory that went ahead, as reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// How often all that had changed was sent while the container ran.
    pub rounds: u32,
    /// Bytes that were sent in these.
    pub ahead_bytes: u64,
    /// Bytes that had changed by the freeze, and were sent in the outage.
    pub outage_bytes: u64,
    /// How changes were found.
    pub trackers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_are_as_documented() {
        assert_eq!(Outcome::Moved.exit_status(), 0);
        assert_eq!(Outcome::Possible.exit_status(), 0);
        assert_eq!(Outcome::Failed.exit_status(), 1);
        assert_eq!(Outcome::Unknown.exit_status(), 3);
        assert_eq!(Outcome::Refused.exit_status(), 4);
    }
}
