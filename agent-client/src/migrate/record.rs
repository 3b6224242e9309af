//! What is kept on this host's disk of a migration, for recovery and for people.

use anyhow::Context;
use common::container::checkpoint::dump::DumpError;
use common::journal::{Journal, MigrationRecord, Progress, Role};
use common::paths;
use common::protocol::{ContainerRef, MigrationId};
use time::OffsetDateTime;
use tokio::task::spawn_blocking;

use crate::recovery;

/// The record of a migration, once there is one.
pub(super) struct Record {
    journal: Journal,
    open: Option<MigrationRecord>,
}

impl Record {
    /// None yet.
    pub(super) fn none() -> Self {
        Record {
            journal: Journal::of("client"),
            open: None,
        }
    }

    /// An earlier migration of `container` that is not over, if there is one.
    pub(super) fn unsettled(&self, container: &str) -> anyhow::Result<Option<MigrationRecord>> {
        let earlier = self.journal.list().context("cannot read the records")?;
        let mut earlier = earlier.into_iter();
        Ok(earlier.find(|r| r.container.id == container && recovery::unsettled(r)))
    }

    /// Opens one: from now on `migration` of `container` to `peer` is under way.
    pub(super) fn open(
        &mut self,
        migration: &MigrationId,
        container: ContainerRef,
        peer: String,
    ) -> anyhow::Result<()> {
        let record = MigrationRecord {
            migration: migration.clone(),
            container,
            peer,
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

    /// Whether there is one: before that nothing has been changed.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The migration that it is of.
    pub(super) fn migration(&self) -> anyhow::Result<&MigrationId> {
        let record = self.open.as_ref().context("no record is open")?;
        Ok(&record.migration)
    }

    /// Writes down how far it is.
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

    /// Writes it down on another thread. The future does not borrow this record.
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

    /// Keeps CRIU's log past the migration, and says where.
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
