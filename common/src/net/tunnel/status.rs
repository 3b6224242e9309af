//! Listing this host's tunnels, and cleaning up those that nothing needs.

use serde::{Deserialize, Serialize};

use super::error::TunnelError;
use super::in_use::InUseError;
use super::lifecycle::{is_alive, sweep, take_down_if_idle};
use super::spawn::{self, KeeperCommand};
use crate::lock::Lock;
use crate::net::flows::port_forwards;
use crate::net::mark::Index;
use crate::net::state::{Dirs, Record};

/// What [`clean_up`] did with a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// What was on record.
    pub record: Record,
    /// Why it stays; none if it is gone.
    pub kept: Option<Kept>,
}

/// Why a tunnel stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// So many tracked connections use it.
    Flows(usize),
    /// New connections to the containers of these names use it.
    Forwards(Vec<String>),
    /// The other end sends new connections through it.
    Asked,
    /// A migration uses it.
    Lease,
}

impl std::fmt::Display for Cleaned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (interface, endpoint) = (self.record.index.interface(), self.record.endpoint);
        write!(f, "{interface} to {endpoint}: ")?;
        match &self.kept {
            None => write!(f, "taken down"),
            Some(Kept::Flows(1)) => write!(f, "carries a connection, and goes when that ends"),
            Some(Kept::Flows(count)) => {
                write!(f, "carries {count} connections, and goes when they end")
            }
            Some(Kept::Forwards(names)) => write!(
                f,
                "carries new connections to {} (`agent-client forward remove`)",
                names.join(", ")
            ),
            Some(Kept::Asked) => write!(
                f,
                "the other host sends new connections through it (`agent-client forward remove` there)"
            ),
            Some(Kept::Lease) => write!(f, "a migration uses it"),
        }
    }
}

/// Takes down tunnels that nothing needs, at once instead of a while after their last connection, and
/// removes what dead keepers left. Tunnels in use are left alone, so it is safe at any time.
///
/// # Errors
/// As [`sweep`].
pub fn clean_up(dirs: &Dirs, keeper: KeeperCommand) -> Result<Vec<Cleaned>, TunnelError> {
    let before = Record::read_all(dirs)?;
    sweep(dirs, keeper)?;
    let clean = |record: Record| {
        let index = record.index;
        let kept = match take_down_if_idle(dirs, index)? {
            true => None,
            false => Some(match spawn::flows(index).map_err(InUseError::from)? {
                0 => match port_forwards::of_tunnel(dirs, index)? {
                    forwards if forwards.is_empty() => {
                        match Lock::try_exclusive(&dirs.stay(index))? {
                            Some(_) => Kept::Lease,
                            None => Kept::Asked,
                        }
                    }
                    forwards => {
                        Kept::Forwards(forwards.into_iter().map(|f| f.container.name).collect())
                    }
                },
                count => Kept::Flows(count),
            }),
        };
        Ok(Cleaned { record, kept })
    };
    before.into_iter().map(clean).collect()
}

/// This host's tunnels that work: keeper and interface are there.
pub fn alive(dirs: &Dirs) -> Result<Vec<Index>, TunnelError> {
    let mut alive = Vec::new();
    for record in Record::read_all(dirs)? {
        if is_alive(dirs, &record)? {
            alive.push(record.index);
        }
    }
    Ok(alive)
}

/// A tunnel as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// What is on record.
    #[serde(flatten)]
    pub record: Record,
    /// Whether its keeper and interface are there.
    pub alive: bool,
    /// How many tracked connections are marked for it.
    pub flows: usize,
}

/// The tunnels of this host.
pub fn list(dirs: &Dirs) -> Result<Vec<TunnelStatus>, TunnelError> {
    Record::read_all(dirs)?
        .into_iter()
        .map(|record| {
            Ok(TunnelStatus {
                alive: is_alive(dirs, &record)?,
                flows: spawn::flows(record.index).map_err(InUseError::from)?,
                record,
            })
        })
        .collect()
}
