//! Records of migrations, one JSON file each, on both hosts.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::durable;
use crate::paths::STATE_DIR;
use crate::protocol::{ContainerRef, MigrationId};

/// How far a migration has come on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Nothing irreversible has happened.
    UnderWay,
    /// Source only: `Commit` is about to be sent. Until the destination has answered, it is not
    /// known where the container runs, and the source's copy stays frozen.
    Committing,
    /// The container runs at the destination.
    Committed,
    /// Destination only: and all that came with it is on disk. Until then the source's copy of it may be the
    /// only one that survives a power cut.
    OnDisk,
    /// Undone; the container runs at the source.
    RolledBack,
}

impl Progress {
    /// Whether the container runs at the destination for good.
    pub fn committed(self) -> bool {
        matches!(self, Progress::Committed | Progress::OnDisk)
    }
}

/// What a host keeps of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationRecord {
    /// Its id.
    pub migration: MigrationId,
    /// The container.
    pub container: ContainerRef,
    /// The other host, by name or address.
    pub peer: String,
    /// Whether the container leaves this host or comes to it.
    pub direction: Role,
    /// How far it has come.
    pub progress: Progress,
    /// When it began, UTC.
    #[serde(with = "time::serde::rfc3339")]
    pub started: OffsetDateTime,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// Destination only: since which boot of this host it is under way (proc_sys_kernel(5), `boot_id`). What
    /// came in an earlier one and was not on disk is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

/// Role of this host in a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// This host is the source.
    Outgoing,
    /// This host is the destination.
    Incoming,
}

/// Why an id means no migration.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// None begins so.
    #[error("there is no migration `{0}` on record here (`status` lists them)")]
    None(String),
    /// Several do.
    #[error("`{prefix}` could be any of: {}", fits.iter().map(MigrationId::as_str).collect::<Vec<_>>().join(", "))]
    Several {
        /// What was given.
        prefix: String,
        /// Those it fits.
        fits: Vec<MigrationId>,
    },
    /// The records cannot be read.
    #[error("cannot read the records of migrations: {0}")]
    Io(#[from] io::Error),
}

/// The records of this host.
#[derive(Debug, Clone)]
pub struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// The journal of one agent: `client` or `server`.
    pub fn of(agent: &str) -> Self {
        Self::at(Path::new(STATE_DIR).join(agent).join("migrations"))
    }

    /// The journal in `directory`, which is created when first written to.
    pub fn at(directory: PathBuf) -> Self {
        Journal { directory }
    }

    /// Writes `record` over an earlier one of the same migration. It is on disk when this returns:
    /// what follows may be irreversible.
    pub fn write(&self, record: &MigrationRecord) -> io::Result<()> {
        let content = serde_json::to_vec_pretty(record)?;
        durable::replace(&self.path(&record.migration), 0o644, &content)
    }

    /// The record of one migration, if there is one.
    pub fn read(&self, migration: &MigrationId) -> io::Result<Option<MigrationRecord>> {
        match std::fs::read(self.path(migration)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The record whose id begins with `prefix`.
    pub fn find(&self, prefix: &str) -> Result<MigrationRecord, FindError> {
        let mut fits = self.list()?;
        fits.retain(|r| !prefix.is_empty() && r.migration.as_str().starts_with(prefix));
        match fits.len() {
            0 => Err(FindError::None(prefix.to_owned())),
            1 => Ok(fits.remove(0)),
            _ => Err(FindError::Several {
                prefix: prefix.to_owned(),
                fits: fits.into_iter().map(|r| r.migration).collect(),
            }),
        }
    }

    /// All records, newest first.
    pub fn list(&self) -> io::Result<Vec<MigrationRecord>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut records: Vec<MigrationRecord> = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "json") {
                records.push(serde_json::from_slice(&std::fs::read(&path)?)?);
            }
        }
        records.sort_by_key(|r| std::cmp::Reverse(r.started));
        Ok(records)
    }

    fn path(&self, migration: &MigrationId) -> PathBuf {
        self.directory.join(format!("{migration}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(started: i64) -> MigrationRecord {
        MigrationRecord {
            migration: MigrationId::random(),
            container: ContainerRef {
                id: "abc".into(),
                name: "web".into(),
            },
            peer: "b".into(),
            direction: Role::Outgoing,
            progress: Progress::UnderWay,
            started: OffsetDateTime::from_unix_timestamp(started).unwrap(),
            error: None,
            boot: None,
        }
    }

    #[test]
    fn the_last_word_stands() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::at(dir.path().join("new"));
        assert!(journal.list().unwrap().is_empty());
        let mut one = record(1);
        journal.write(&one).unwrap();
        one.progress = Progress::Committed;
        journal.write(&one).unwrap();
        let two = record(2);
        journal.write(&two).unwrap();
        assert_eq!(journal.read(&one.migration).unwrap(), Some(one.clone()));
        assert_eq!(journal.list().unwrap(), [two, one]);
        assert_eq!(journal.read(&MigrationId::random()).unwrap(), None);
    }

    #[test]
    fn a_unique_prefix_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::at(dir.path().to_owned());
        for id in ["00aa000000000000", "00ab000000000000"] {
            let migration = id.parse().unwrap();
            let record = MigrationRecord {
                migration,
                ..record(1)
            };
            journal.write(&record).unwrap();
        }
        let found = journal.find("00ab").unwrap();
        assert_eq!(found.migration.as_str(), "00ab000000000000");
        assert!(matches!(
            journal.find("00a"),
            Err(FindError::Several { fits, .. }) if fits.len() == 2
        ));
        for none in ["", "f"] {
            assert!(matches!(journal.find(none), Err(FindError::None(_))));
        }
    }
}
