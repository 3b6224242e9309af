//! What `status` shows of a host.

use std::fmt::{self, Display, Write};

use conntrack::{DirectionCounters, Flow, Protocol};
use serde::Serialize;
use time::macros::format_description;

use crate::journal::{Journal, MigrationRecord, Progress, Records, Role, Unreadable};
use crate::multicall::keeper_command;
use crate::net::flows::{apply, placeholder};
use crate::net::mark::{self, Index, Mark};
use crate::net::state::Dirs;
use crate::net::tunnel;
use crate::net::tunnel::TunnelError;
use crate::units;

/// Most migrations shown to people; the JSON has all.
const MOST_MIGRATIONS: usize = 20;
/// Most connections shown to people; the JSON has all.
const MOST_FLOWS: usize = 50;

/// Tunnels, what goes through them, and migrations.
#[derive(Debug, Serialize)]
pub struct Status {
    /// This host's tunnels.
    pub tunnels: Vec<tunnel::status::TunnelStatus>,
    /// The tracked connections that take them.
    pub flows: Vec<Path>,
    /// Migrations, newest first.
    pub migrations: Vec<MigrationRecord>,
    /// Records of migrations that cannot be read.
    pub unreadable: Vec<Unreadable>,
}

/// A tracked connection and the paths of its packets on this host.
#[derive(Debug, Serialize)]
pub struct Path {
    /// The connection's protocol.
    pub protocol: &'static str,
    /// The address that opened it.
    pub from: String,
    /// The address it was opened to, before any translation.
    pub to: String,
    /// The interface of the tunnel that its packets in this direction take; absent if they are
    /// routed normally.
    pub there: Option<String>,
    /// The same for the other direction.
    pub back: Option<String>,
    /// Packets in both directions; absent if the kernel does not count
    /// (`net.netfilter.nf_conntrack_acct`).
    pub packets: Option<u64>,
    /// Bytes in both directions.
    pub bytes: Option<u64>,
}

impl Status {
    /// This host's tunnels and connections, with the migrations of its `client` or `server`.
    /// Changes nothing.
    ///
    /// # Errors
    /// If the records of tunnels or migrations or the connection tracking table cannot be read.
    pub fn gather(agent: &str) -> anyhow::Result<Self> {
        let Records {
            readable,
            unreadable,
        } = Journal::of(agent).list()?;
        Ok(Status {
            tunnels: tunnel::status::list(&Dirs::default())?,
            flows: apply::through_tunnels()?.iter().map(Path::of).collect(),
            migrations: readable,
            unreadable,
        })
    }
}

impl Path {
    fn of(flow: &Flow) -> Self {
        let interface = |direction| Mark(flow.mark).get(direction).map(Index::interface);
        let both = |count: fn(&DirectionCounters) -> u64| {
            let counters = flow.counters.as_ref()?;
            Some(count(&counters.original) + count(&counters.reply))
        };
        Path {
            protocol: match flow.original.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Icmp { .. } => "icmp",
                Protocol::Icmpv6 { .. } => "icmpv6",
                Protocol::Other(_) => "other",
            },
            from: match placeholder::is(flow.original.source.ip()) {
                true => flow.reply.destination.to_string(),
                false => flow.original.source.to_string(),
            },
            to: flow.original.destination.to_string(),
            there: interface(mark::Direction::Original),
            back: interface(mark::Direction::Reply),
            packets: both(|direction| direction.packets),
            bytes: both(|direction| direction.bytes),
        }
    }
}

impl Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = |interface: &Option<String>| interface.clone().unwrap_or("directly".into());
        write!(
            f,
            "{}  {} to {}  there {}, back {}",
            self.protocol,
            self.from,
            self.to,
            way(&self.there),
            way(&self.back)
        )?;
        match (self.packets, self.bytes) {
            (Some(packets), Some(bytes)) => {
                write!(f, "  {packets} packets, {}", units::bytes(bytes))
            }
            _ => Ok(()),
        }
    }
}

/// Takes down tunnels that nothing needs, and says, one line each, what became of them.
pub fn clean_up() -> Result<String, TunnelError> {
    let cleaned = tunnel::status::clean_up(&Dirs::default(), &keeper_command)?;
    let lines: Vec<_> = cleaned.iter().map(|tunnel| format!("{tunnel}\n")).collect();
    Ok(match lines.is_empty() {
        true => "there are no tunnels\n".to_owned(),
        false => lines.concat(),
    })
}

/// How far a migration has come, in words.
pub fn progress(record: &MigrationRecord) -> &'static str {
    match record.progress {
        Progress::UnderWay => "under way",
        Progress::Committing => "outcome unknown",
        Progress::Committed | Progress::OnDisk => "moved",
        Progress::RolledBack => "rolled back",
    }
}

/// A migration in a line: when it began, its id, what went where, and how far it has come.
pub fn line(record: &MigrationRecord) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let arrow = match record.direction {
        Role::Outgoing => "to",
        Role::Incoming => "from",
    };
    format!(
        "{}  {}  {} {arrow} {}  {}",
        record.started.format(&format).unwrap_or_default(),
        record.migration,
        record.container.name,
        record.peer,
        progress(record)
    )
}

impl Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "tunnels:")?;
        for tunnel in &self.tunnels {
            writeln!(
                out,
                "  {}  to {}  {} WireGuard  {}  {} flows",
                tunnel.record.index.interface(),
                tunnel.record.endpoint,
                tunnel.record.backend,
                if tunnel.alive { "up" } else { "dead" },
                tunnel.flows
            )?;
        }
        none(out, self.tunnels.is_empty())?;
        writeln!(out, "connections:")?;
        for path in self.flows.iter().take(MOST_FLOWS) {
            writeln!(out, "  {path}")?;
        }
        if let Some(more) = self.flows.len().checked_sub(MOST_FLOWS + 1) {
            writeln!(out, "  and {} more (--format json has all)", more + 1)?;
        }
        none(out, self.flows.is_empty())?;
        writeln!(out, "migrations:")?;
        for record in self.migrations.iter().take(MOST_MIGRATIONS) {
            write!(out, "  {}", line(record))?;
            match &record.error {
                Some(error) => writeln!(out, ": {error}")?,
                None => out.write_char('\n')?,
            }
        }
        for record in &self.unreadable {
            writeln!(out, "  {record}")?;
        }
        none(
            out,
            self.migrations.is_empty() && self.unreadable.is_empty(),
        )
    }
}

fn none(out: &mut fmt::Formatter<'_>, empty: bool) -> fmt::Result {
    match empty {
        true => writeln!(out, "  none"),
        false => Ok(()),
    }
}
