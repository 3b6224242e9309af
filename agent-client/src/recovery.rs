//! After a crash: migrations on record that no command carries on any more.

use std::collections::HashSet;

use anyhow::Context;
use common::container::podman;
use common::journal::{Journal, MigrationRecord, Progress};
use common::net::carry;
use common::paths;
use common::transaction::{self, SourceStep};

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
        if !unsettled(&record) {
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

/// Whether a migration is not over on this host.
pub(crate) fn unsettled(record: &MigrationRecord) -> bool {
    let scratch = paths::work_dir(&record.migration).exists();
    transaction::unsettled(record.progress, scratch)
}

async fn settle(
    journal: &Journal,
    mut record: MigrationRecord,
) -> anyhow::Result<Option<&'static str>> {
    // Held by a command that is alive: not ours to touch.
    let Some(_lock) = lock::container(&record.container.id)? else {
        return Ok(None);
    };
    let source = find(&record).await?;
    let frozen = match &source {
        Some(source) => source.frozen()?,
        None => false,
    };
    let mut step = transaction::source(record.progress, None, frozen);
    if step == Some(SourceStep::Ask) {
        let peer = record.peer.parse().map_err(anyhow::Error::msg)?;
        let answer = ask_outcome(&peer, &record.migration)
            .await
            .context("the destination cannot be asked; the container stays frozen")?;
        step = transaction::source(record.progress, Some(answer), frozen);
    }
    let committed = match step {
        None | Some(SourceStep::Remove) => true,
        Some(SourceStep::Thaw) => false,
        Some(SourceStep::Ask) => anyhow::bail!(
            "{} does not know yet what became of it; the container stays frozen",
            record.peer
        ),
        Some(SourceStep::AskOperator) => anyhow::bail!(
            "{} has no record of it; the container stays frozen until you have found out where \
             it runs",
            record.peer
        ),
    };
    if let Some(source) = source {
        match step {
            Some(SourceStep::Remove) => source.remove().await?,
            Some(SourceStep::Thaw) => {
                let addresses: HashSet<_> = source.facts.addresses().into_iter().collect();
                tokio::task::spawn_blocking(move || carry::back_to_container(&addresses)).await??;
                source.thaw().await?;
            }
            _ => {}
        }
    }
    record.progress = if committed {
        Progress::Committed
    } else {
        Progress::RolledBack
    };
    record.error = Some("agent-client ended while it was under way".into());
    journal.write(&record)?;
    let _ = paths::remove_work_dir(&record.migration);
    Ok(Some(if committed { "finished" } else { "undone" }))
}

/// The container of a migration, if it runs here or is frozen.
async fn find(record: &MigrationRecord) -> anyhow::Result<Option<Source>> {
    if !podman::exists("container", &record.container.id).await? {
        return Ok(None);
    }
    let (facts, placement) = podman::inspect(&record.container.id).await?;
    // There is nothing to thaw, and one that has come back would look the same.
    if placement.pid == 0 {
        tracing::warn!(
            "{} is stopped here: if it runs on {}, remove it here",
            record.container.name,
            record.peer
        );
        return Ok(None);
    }
    let work = paths::work_dir(&record.migration);
    Ok(Some(Source::new(facts, placement, work)?))
}
