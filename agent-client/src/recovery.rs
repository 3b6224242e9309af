//! After a crash: migrations on record that no command carries on any more.

use std::collections::HashSet;

use anyhow::Context;
use common::container::podman;
use common::journal::{Journal, MigrationRecord, Progress};
use common::net::carry;
use common::paths;
use common::protocol::Outcome;

use crate::lock;
use crate::migrate::ask_outcome;
use crate::source::Source;

/// Finishes or undoes what earlier commands left. Errors are logged: what cannot be settled now
/// stays on record for the next time.
pub(crate) async fn recover() {
    let journal = Journal::of("client");
    let records = match journal.list() {
        Ok(records) => records,
        Err(error) => {
            tracing::warn!("cannot read the records of earlier migrations: {error}");
            return;
        }
    };
    for record in records {
        if !matches!(record.progress, Progress::UnderWay | Progress::Committing) {
            continue;
        }
        let name = record.container.name.clone();
        match settle(&journal, record).await {
            Ok(None) => {}
            Ok(Some(how)) => tracing::warn!("an interrupted migration of {name} was {how}"),
            Err(error) => {
                tracing::error!("an interrupted migration of {name} is not settled: {error:#}");
            }
        }
    }
}

async fn settle(
    journal: &Journal,
    mut record: MigrationRecord,
) -> anyhow::Result<Option<&'static str>> {
    // Held by a command that is alive: not ours to touch.
    let Some(_lock) = lock::container(&record.container.id)? else {
        return Ok(None);
    };
    let committed = match record.progress {
        Progress::Committing => {
            let peer = record.peer.parse().map_err(anyhow::Error::msg)?;
            match ask_outcome(&peer, &record.migration)
                .await
                .context("the destination cannot be asked; the container stays frozen")?
            {
                Outcome::Committed => true,
                Outcome::RolledBack => false,
                Outcome::UnderWay | Outcome::Unknown => anyhow::bail!(
                    "{} does not know yet what became of it; the container stays frozen",
                    record.peer
                ),
            }
        }
        _ => false,
    };
    let there = podman::exists("container", &record.container.id).await?;
    if there {
        let (facts, placement) = podman::inspect(&record.container.id).await?;
        let work = paths::work_dir(&record.migration);
        let addresses: HashSet<_> = facts.addresses().into_iter().collect();
        let source = Source::new(facts, placement, work)?;
        if committed {
            source.remove().await?;
        } else {
            tokio::task::spawn_blocking(move || carry::back_to_container(&addresses)).await??;
            source.thaw().await?;
        }
    }
    let _ = paths::remove_work_dir(&record.migration);
    record.progress = if committed {
        Progress::Committed
    } else {
        Progress::RolledBack
    };
    record.error = Some("agent-client ended while it was under way".into());
    journal.write(&record)?;
    Ok(Some(if committed { "finished" } else { "undone" }))
}
