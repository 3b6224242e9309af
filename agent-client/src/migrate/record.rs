//! What this host keeps on disk about a migration, for recovery and for people.

use anyhow::Context;
use common::container::checkpoint::dump::DumpError;
use common::journal::{self, Journal, MigrationRecord, Progress, Role};
use common::paths;
use common::protocol::{ContainerRef, MigrationId};
use common::report::Report;
use time::OffsetDateTime;
use tokio::task::spawn_blocking;

use crate::recovery;

/// The record of a migration, once there is one.
pub(super) struct Record {
    journal: Journal,
    open: Option<MigrationRecord>,
}

impl Record {
    /// No record yet.
    pub(super) fn none() -> Self {
        Record {
            journal: Journal::of("client"),
            open: None,
        }
    }

    /// An earlier, unfinished migration of `container`, if there is one.
    pub(super) fn unsettled(&self, container: &str) -> anyhow::Result<Option<MigrationRecord>> {
        let earlier = self.journal.list().context("cannot read the records")?;
        if let Some(record) = earlier.unreadable_of(container) {
            anyhow::bail!(
                "an earlier migration of this container may not be over: {record} (by a version of \
                 agent-client that reads it, `recover` settles it)"
            );
        }
        let mut earlier = earlier.readable.into_iter();
        Ok(earlier.find(|r| r.container.id == container && recovery::unsettled(r)))
    }

    /// Opens one: from now on `migration` of `container` to `peer` is on record as under way.
    pub(super) fn open(
        &mut self,
        migration: &MigrationId,
        container: ContainerRef,
        peer: String,
    ) -> anyhow::Result<()> {
        self.prune();
        let record = MigrationRecord {
            migration: migration.clone(),
            container,
            peer,
            owner: None,
            direction: Role::Outgoing,
            progress: Progress::UnderWay,
            started: OffsetDateTime::now_utc(),
            error: None,
            boot: None,
        };
        self.journal
            .write(&record)
            .context("cannot write the migration's record")?;
        self.open = Some(record);
        Ok(())
    }

    /// Removes what is too old to be of use.
    fn prune(&self) {
        let now = OffsetDateTime::now_utc();
        let pruned = self.journal.prune(now, recovery::unsettled);
        let pruned = pruned
            .and_then(|()| paths::prune_logs(&paths::client_dir(), journal::KEPT.unsigned_abs()));
        if let Err(error) = pruned {
            tracing::warn!("old records are not removed: {error}");
        }
    }

    /// Whether there is one: as long as there is none, nothing has been changed.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The migration that the record is about.
    pub(super) fn migration(&self) -> anyhow::Result<&MigrationId> {
        let record = self.open.as_ref().context("no record is open")?;
        Ok(&record.migration)
    }

    /// Records how far the migration has come.
    pub(super) fn write(
        &mut self,
        progress: Progress,
        error: Option<String>,
    ) -> anyhow::Result<()> {
        let record = self.open.as_mut().context("no record is open")?;
        record.progress = progress;
        record.error = error;
        self.journal
            .write(record)
            .context("cannot write the migration's record")
    }

    /// Keeps the report of the migration that has ended.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn keep(&self, report: &Report) -> anyhow::Result<()> {
        self.journal
            .write_report(self.migration()?, report)
            .context("the report could not be kept")
    }

    /// As [`Record::write`], on another thread. The future does not borrow this record.
    pub(super) fn write_later(
        &mut self,
        progress: Progress,
    ) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let journal = self.journal.clone();
        let record = self.open.as_mut().map(|record| {
            record.progress = progress;
            record.clone()
        });
        async move {
            let record = record.context("no record is open")?;
            spawn_blocking(move || journal.write(&record))
                .await?
                .context("cannot write the migration's record")
        }
    }

    /// Keeps CRIU's log when the scratch space goes, and adds to the error where it is.
    pub(super) fn keep_log(&self, error: DumpError) -> anyhow::Error {
        let DumpError::Criu { line, log } = error else {
            return error.into();
        };
        let kept = self
            .migration()
            .and_then(|id| Ok(paths::keep_log(&paths::client_dir(), id, &log)?));
        anyhow::anyhow!(
            "CRIU could not dump the container: {line} (its log: {})",
            kept.unwrap_or(log).display()
        )
    }
}
