//! `status` for people.

use std::fmt::Write;

use time::macros::format_description;

use crate::journal::{Direction, MigrationRecord, Progress};
use crate::net::tunnel;

/// Most migrations shown; the journal has all.
const SHOWN: usize = 20;

/// How far a migration has come, in words.
pub fn progress(record: &MigrationRecord) -> &'static str {
    match record.progress {
        Progress::UnderWay => "under way",
        Progress::Committing => "outcome unknown",
        Progress::Committed => "moved",
        Progress::RolledBack => "rolled back",
    }
}

/// Tunnels and migrations as text.
pub fn text(tunnels: &[tunnel::Status], migrations: &[MigrationRecord]) -> String {
    let mut out = String::new();
    out.push_str("tunnels:\n");
    for tunnel in tunnels {
        let _ = writeln!(
            out,
            "  {}  to {}  {} WireGuard  {}  {} flows",
            tunnel.record.index.interface(),
            tunnel.record.endpoint,
            tunnel.record.backend,
            if tunnel.alive { "up" } else { "dead" },
            tunnel.flows
        );
    }
    if tunnels.is_empty() {
        out.push_str("  none\n");
    }
    out.push_str("migrations:\n");
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    for record in migrations.iter().take(SHOWN) {
        let arrow = match record.direction {
            Direction::Outgoing => "to",
            Direction::Incoming => "from",
        };
        let progress = progress(record);
        let _ = write!(
            out,
            "  {}  {}  {} {arrow} {}  {progress}",
            record.started.format(&format).unwrap_or_default(),
            record.migration,
            record.container.name,
            record.peer
        );
        match &record.error {
            Some(error) => {
                let _ = writeln!(out, ": {error}");
            }
            None => out.push('\n'),
        }
    }
    if migrations.is_empty() {
        out.push_str("  none\n");
    }
    out
}
