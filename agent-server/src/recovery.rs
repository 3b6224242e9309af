//! After a crash: migrations on record that nobody carries on any more.

use common::container::podman;
use common::journal::{Journal, Progress};
use common::net::carry;
use common::paths;

use crate::incoming;

/// Undoes every migration that an earlier server left under way. Call before any new one begins.
///
/// Nothing of an uncommitted container's output can have left this host: its network namespace was
/// quarantined before it ran, so removing it loses nothing, and the source still has it.
pub async fn recover(journal: &Journal) -> anyhow::Result<()> {
    for mut record in journal.list()? {
        if record.progress != Progress::UnderWay {
            continue;
        }
        tracing::warn!(migration = %record.migration, container = record.container.name,
            "undoing a migration that an earlier server left under way");
        podman::remove_container(&record.container.id).await?;
        let work = paths::work_dir(&record.migration);
        let addresses = incoming::addresses(&work);
        tokio::task::spawn_blocking(move || carry::remove_arrivals(&addresses)).await??;
        for created in incoming::created(&work) {
            created.remove().await?;
        }
        incoming::remove_work(&work)?;
        record.progress = Progress::RolledBack;
        record.error = Some("the destination's agent ended while it was under way".into());
        journal.write(&record)?;
    }
    Ok(())
}
