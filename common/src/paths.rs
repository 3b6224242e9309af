//! Where the agents keep what outlives them.

use std::path::PathBuf;

use crate::protocol::MigrationId;

/// Kept across reboots: identities, pinned peers, the WireGuard key, records of migrations.
pub const STATE_DIR: &str = "/var/lib/live-migration";

/// Gone after a reboot, like the kernel objects it describes: tunnels, gates.
pub const RUN_DIR: &str = "/run/live-migration";

/// Identity and pinned servers of `agent-client`.
pub fn client_dir() -> PathBuf {
    PathBuf::from(STATE_DIR).join("client")
}

/// Identity, authorized clients and invitations of `agent-server`.
pub fn server_dir() -> PathBuf {
    PathBuf::from(STATE_DIR).join("server")
}

/// Scratch space of one migration on this host; removed when it ends.
pub fn work_dir(migration: &MigrationId) -> PathBuf {
    PathBuf::from(STATE_DIR)
        .join("work")
        .join(migration.as_str())
}
