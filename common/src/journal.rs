//! Records of migrations, one JSON file each, on both hosts; and the reports of those that have ended here.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use trust::Fingerprint;

use crate::durable;
use crate::paths::STATE_DIR;
use crate::protocol::{ContainerRef, MigrationId};
use crate::report::Report;

/// How long records of migrations that are over are kept, and logs of what failed.
pub const KEPT: Duration = Duration::days(90);

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

/// What a host records about a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationRecord {
    /// Its id.
    pub migration: MigrationId,
    /// The container.
    pub container: ContainerRef,
    /// The other host, by name or address.
    pub peer: String,
    /// At the destination the key of the source, whose migration it is. One that an earlier version has
    /// written is nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Fingerprint>,
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

/// The records of a host, as far as they can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Those that can be read, newest first.
    pub readable: Vec<MigrationRecord>,
    /// Those that cannot: one of another version of the agents, or a damaged one.
    pub unreadable: Vec<Unreadable>,
}

/// A record that cannot be read. It is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its file.
    pub path: PathBuf,
    /// Why.
    pub error: String,
    /// What is in the file.
    #[serde(skip)]
    content: Vec<u8>,
}

impl Records {
    /// One of those that cannot be read and that may be of this container: nothing is decided about it
    /// without that record.
    pub fn unreadable_of(&self, container: &str) -> Option<&Unreadable> {
        self.unreadable.iter().find(|record| {
            let mut parts = record.content.windows(container.len().max(1));
            parts.any(|part| part == container.as_bytes())
        })
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be read: {}", self.path.display(), self.error)
    }
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

/// Why a prefix does not name one migration.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// No id starts with it.
    #[error("there is no migration `{0}` on record here (`status` lists them)")]
    None(String),
    /// Several do.
    #[error("`{prefix}` could be any of: {}", fits.iter().map(MigrationId::as_str).collect::<Vec<_>>().join(", "))]
    Several {
        /// What was given.
        prefix: String,
        /// The ids that start with it.
        fits: Vec<MigrationId>,
    },
    /// It is one that cannot be read.
    #[error("{0}")]
    Unreadable(Unreadable),
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

    /// Writes `record` over an earlier one of the same migration. It is on disk when this returns,
    /// because what follows may be irreversible.
    pub fn write(&self, record: &MigrationRecord) -> io::Result<()> {
        let content = serde_json::to_vec_pretty(record)?;
        durable::replace(&self.path(&record.migration), 0o644, &content)
    }

    /// The record of one migration, if there is one.
    pub fn read(&self, migration: &MigrationId) -> io::Result<Option<MigrationRecord>> {
        read(&self.path(migration))
    }

    /// Keeps the report of a migration for as long as its record. It is on disk when this returns.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_report(&self, migration: &MigrationId, report: &Report) -> io::Result<()> {
        let content = serde_json::to_vec_pretty(report)?;
        durable::replace(&self.report_path(migration), 0o600, &content)
    }

    /// The report of a migration; none if this host has not made it, or died before it could.
    ///
    /// # Errors
    /// Those of the file system, and if it is of another version of the agents.
    pub fn report(&self, migration: &MigrationId) -> io::Result<Option<Report>> {
        read(&self.report_path(migration))
    }

    /// The record whose id starts with `prefix`.
    pub fn find(&self, prefix: &str) -> Result<MigrationRecord, FindError> {
        let Records {
            readable: mut fits,
            unreadable,
        } = self.list()?;
        let named = |record: &&Unreadable| {
            let name = record.path.file_name().unwrap_or_default();
            !prefix.is_empty() && name.to_string_lossy().starts_with(prefix)
        };
        if let Some(record) = unreadable.iter().find(named) {
            return Err(FindError::Unreadable(record.clone()));
        }
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

    /// All records. One that cannot be read hinders nothing but what needs it.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> io::Result<Records> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Records::default());
            }
            Err(error) => return Err(error),
        };
        let mut records = Records::default();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let (content, parsed) = match std::fs::read(&path) {
                Ok(content) => {
                    let parsed = serde_json::from_slice(&content);
                    (content, parsed.map_err(|error| error.to_string()))
                }
                // Another process has just pruned it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => (Vec::new(), Err(error.to_string())),
            };
            match parsed {
                Ok(record) => records.readable.push(record),
                Err(error) => records.unreadable.push(Unreadable {
                    path,
                    error,
                    content,
                }),
            }
        }
        records
            .readable
            .sort_by_key(|r| std::cmp::Reverse(r.started));
        records.unreadable.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(records)
    }

    /// Removes the records and reports of migrations that began longer than [`KEPT`] before `now`, unless one of the same
    /// container is `open`, that is not over: whether a later one has brought the container says what may
    /// be undone of an earlier one.
    ///
    /// # Errors
    /// If the directory cannot be read, or a file not removed.
    pub fn prune(
        &self,
        now: OffsetDateTime,
        open: impl Fn(&MigrationRecord) -> bool,
    ) -> io::Result<()> {
        let records = self.list()?;
        for record in &records.readable {
            let id = &record.container.id;
            let mut others = records.readable.iter().filter(|r| r.container.id == *id);
            if now - record.started > KEPT
                && !others.any(&open)
                && records.unreadable_of(id).is_none()
            {
                // Once the record is gone, nothing would lead to the report.
                match std::fs::remove_file(self.report_path(&record.migration)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => std::fs::remove_file(self.path(&record.migration))?,
                }
            }
        }
        Ok(())
    }

    fn path(&self, migration: &MigrationId) -> PathBuf {
        self.directory.join(format!("{migration}.json"))
    }

    fn report_path(&self, migration: &MigrationId) -> PathBuf {
        self.directory
            .join("reports")
            .join(format!("{migration}.json"))
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn record(started: i64) -> MigrationRecord {
        MigrationRecord {
            migration: MigrationId::random(),
            container: ContainerRef {
                id: container('c'),
                name: "web".into(),
            },
            peer: "b".into(),
            owner: None,
            direction: Role::Outgoing,
            progress: Progress::UnderWay,
            started: OffsetDateTime::from_unix_timestamp(started).unwrap(),
            error: None,
            boot: None,
        }
    }

    fn report() -> Report {
        let text = r#"{
            "version": 2, "migration_id": null, "container": null, "source": "a", "destination": "b",
            "outcome": "moved", "phases": [], "freeze_ms": 7, "sent_bytes": 9, "flows": {"tcp": 0, "udp": 0},
            "bypassed": 0, "forwarded_ports": [], "tunnel": null, "memory": null, "packets": null, "notes": [],
            "warnings": [], "error": null
        }"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_report_is_kept_beside_its_record() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::at(dir.path().join("migrations"));
        let one = record(1);
        assert_eq!(journal.report(&one.migration).unwrap(), None);
        journal.write_report(&one.migration, &report()).unwrap();
        assert_eq!(journal.report(&one.migration).unwrap(), Some(report()));
        // It is not taken for a record.
        assert_eq!(journal.list().unwrap(), Records::default());
    }

    #[test]
    fn the_last_word_stands() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::at(dir.path().join("new"));
        assert_eq!(journal.list().unwrap(), Records::default());
        let mut one = record(1);
        journal.write(&one).unwrap();
        one.progress = Progress::Committed;
        journal.write(&one).unwrap();
        let two = record(2);
        journal.write(&two).unwrap();
        assert_eq!(journal.read(&one.migration).unwrap(), Some(one.clone()));
        assert_eq!(journal.list().unwrap().readable, [two, one]);
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

    #[test]
    fn a_record_that_cannot_be_read_hinders_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::at(dir.path().to_owned());
        let one = record(1);
        journal.write(&one).unwrap();
        // Of a later version.
        let text =
            r#"{"migration": "00aa000000000000", "container": {"id": "f00d"}, "progress": "new"}"#;
        let path = dir.path().join("00aa000000000000.json");
        std::fs::write(&path, text).unwrap();
        std::fs::write(dir.path().join("00bb000000000000.json"), "").unwrap();

        let records = journal.list().unwrap();
        assert_eq!(records.readable, [one]);
        assert_eq!(records.unreadable.len(), 2);
        assert!(records.unreadable[0].to_string().contains("00aa"));
        assert_eq!(records.unreadable_of("f00d").unwrap().path, path);
        assert_eq!(records.unreadable_of(&container('c')), None);
        let error = journal.find("00aa").unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
        let id = "00bb000000000000".parse().unwrap();
        assert!(journal.read(&id).is_err(), "it is not taken for unknown");
    }

    #[test]
    fn what_is_over_goes_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::at(dir.path().to_owned());
        let write = |started, of: char, progress| {
            let mut record = record(started);
            record.container.id = container(of);
            record.progress = progress;
            journal.write(&record).unwrap();
            record.migration
        };
        let now = OffsetDateTime::from_unix_timestamp(0).unwrap() + KEPT + Duration::seconds(10);
        let over = write(1, 'a', Progress::Committed);
        let young = write(20, 'a', Progress::RolledBack);
        for reported in [&over, &young] {
            journal.write_report(reported, &report()).unwrap();
        }
        let open = write(1, 'b', Progress::UnderWay);
        // Whoever settles the open one must know that the container has come since.
        let needed = write(2, 'b', Progress::Committed);
        let not_removed = write(1, 'c', Progress::Committed);
        let is_open = |record: &MigrationRecord| {
            record.progress == Progress::UnderWay || record.migration == not_removed
        };
        journal.prune(now, is_open).unwrap();

        let kept = journal.list().unwrap().readable.into_iter();
        let kept: std::collections::BTreeSet<_> = kept.map(|r| r.migration).collect();
        assert_eq!(journal.report(&over).unwrap(), None);
        assert_eq!(journal.report(&young).unwrap(), Some(report()));
        assert_eq!(kept, [young, open, needed, not_removed].into());
    }
}
