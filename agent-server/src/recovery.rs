//! After a crash: migrations on record that nobody carries on any more.

use common::container::podman;
use common::journal::{Journal, MigrationRecord, Progress};
use common::net::{carry, quarantine};
use common::paths;

use crate::incoming;

/// Undoes every migration that an earlier server left under way, and finishes those that it had
/// committed. Call before any new one begins.
///
/// Nothing of an uncommitted container's output can have left this host: its network namespace was
/// quarantined before it ran, so removing it loses nothing, and the source still has it.
pub async fn recover(journal: &Journal) -> anyhow::Result<()> {
    for mut record in journal.list()? {
        let work = paths::work_dir(&record.migration);
        if record.progress == Progress::Committed && work.exists() {
            finish(&record).await?;
            paths::remove_work_dir(&record.migration)?;
        }
        if record.progress != Progress::UnderWay {
            continue;
        }
        tracing::warn!(migration = %record.migration, container = record.container.name,
            "undoing a migration that an earlier server left under way");
        podman::remove_container(&record.container.id).await?;
        let addresses = incoming::addresses(&work);
        tokio::task::spawn_blocking(move || carry::remove_arrivals(&addresses)).await??;
        for created in incoming::created(&work) {
            created.remove().await?;
        }
        paths::remove_work_dir(&record.migration)?;
        record.progress = Progress::RolledBack;
        record.error = Some("the destination's agent ended while it was under way".into());
        journal.write(&record)?;
    }
    Ok(())
}

/// Lets the packets of a container out whose commit was written down, but perhaps not carried out.
async fn finish(record: &MigrationRecord) -> anyhow::Result<()> {
    if podman::exists("container", &record.container.id).await? {
        let (_, placement) = podman::inspect(&record.container.id).await?;
        if !placement.netns.is_empty() {
            let netns = std::path::PathBuf::from(placement.netns);
            tokio::task::spawn_blocking(move || quarantine::lift(&netns)).await??;
        }
    }
    Ok(())
}
