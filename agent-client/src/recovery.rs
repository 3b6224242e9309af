//! After a crash: recorded migrations that no command is working on any more.

use std::fmt::{self, Display};
use std::io;
use std::time::Duration;

use anyhow::Context;
use common::container::{leftover_processes, podman, service};
use common::journal::{Journal, MigrationRecord, Progress};
use common::net::flows::{apply, guests, neighbours, port_forwards};
use common::net::state::Dirs;
use common::paths;
use common::protocol::{Fate, MigrationId};
use common::transaction::{self, SourceStep};
use serde::Serialize;

use crate::control::ask_fate;
use crate::lock;
use crate::source::{self, Source};

/// How much longer a program that a dead command started may take.
const LEFTOVERS: Duration = Duration::from_secs(60);

/// How recovery left a migration.
#[derive(Debug)]
pub(crate) enum End {
    /// The container runs here.
    Undone,
    /// The container runs at the destination.
    Finished,
    /// Another command is working on it.
    UnderWay,
    /// It stays as it is, for this reason.
    Open(anyhow::Error),
}

/// A migration that was not over.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// As it was found.
    pub(crate) record: MigrationRecord,
    /// How recovery left it.
    pub(crate) end: End,
}

/// Runs before commands that change something: finishes or undoes what earlier ones left. What cannot be finished
/// or undone now stays on record for the next time, and is logged.
pub(crate) async fn first() {
    let recovered = match recover(None).await {
        Ok(recovered) => recovered,
        Err(error) => {
            tracing::warn!("cannot read the records of earlier migrations: {error}");
            return;
        }
    };
    for Recovered { record, end } in recovered {
        let name = record.container.name;
        match end {
            End::Undone => tracing::warn!("an interrupted migration of {name} was undone"),
            End::Finished => tracing::warn!("an interrupted migration of {name} was finished"),
            End::UnderWay => {}
            End::Open(error) => {
                tracing::error!(
                    "an interrupted migration of {name} is neither finished nor undone: {error:#}"
                );
            }
        }
    }
}

/// A migration that no command is working on and that is not over.
#[derive(Debug, Serialize)]
pub(crate) struct Open {
    /// Its id.
    migration_id: MigrationId,
    /// Its container's name.
    container: String,
    /// Where to.
    destination: String,
    /// What [`recover`] does.
    recover: String,
}

impl Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}  {} to {} is left open: `agent-client recover` {}",
            self.migration_id, self.container, self.destination, self.recover
        )
    }
}

/// Which migrations earlier commands have left open. Reads their records only, and changes nothing.
pub(crate) fn left_open() -> anyhow::Result<Vec<Open>> {
    let records = Journal::of("client").list()?;
    let open = |record: &MigrationRecord| {
        unsettled(record) && lock::carrier(&record.container.id, &record.migration).is_none()
    };
    let open = records.readable.into_iter().filter(open);
    Ok(open
        .map(|record| Open {
            recover: match record.progress {
                Progress::UnderWay => {
                    "undoes it, and the container runs on here; until then it may be frozen".into()
                }
                Progress::Committing => format!(
                    "asks {} whether it runs there; the copy here is frozen until then",
                    record.peer
                ),
                Progress::Committed | Progress::OnDisk | Progress::RolledBack => format!(
                    "removes the copy here, once {} has said that all is on disk there",
                    record.peer
                ),
            },
            migration_id: record.migration,
            container: record.container.name,
            destination: record.peer,
        })
        .collect())
}

/// The same for people, on stderr, before a command that only reads.
pub(crate) fn name_open() {
    match left_open() {
        Ok(open) => open.iter().for_each(|open| eprintln!("{open}")),
        Err(error) => tracing::warn!("cannot read the records of earlier migrations: {error:#}"),
    }
}

/// Finishes or undoes all migrations that earlier commands left, or the one given.
pub(crate) async fn recover(only: Option<&MigrationId>) -> io::Result<Vec<Recovered>> {
    let journal = Journal::of("client");
    let mut recovered = Vec::new();
    let records = journal.list()?;
    for record in &records.unreadable {
        tracing::error!("a migration may not be over: {record}");
    }
    for record in records.readable {
        if unsettled(&record) && only.is_none_or(|id| *id == record.migration) {
            let end = match recover_one(&journal, record.clone()).await {
                Ok(end) => end,
                Err(error) => End::Open(error),
            };
            recovered.push(Recovered { record, end });
        }
    }
    Ok(recovered)
}

/// Whether a migration is still open on this host.
pub(crate) fn unsettled(record: &MigrationRecord) -> bool {
    let scratch = paths::work_dir(&record.migration).exists();
    transaction::unsettled(record.progress, scratch)
}

async fn recover_one(journal: &Journal, record: MigrationRecord) -> anyhow::Result<End> {
    // The lock is held by a living command: leave its migration alone.
    let Some(_lock) = lock::container(&record.container.id)? else {
        return Ok(End::UnderWay);
    };
    let copy = find(&record).await?;
    let stands_still = copy.stands_still()?;
    let mut step = transaction::source(record.progress, None, stands_still);
    if step == Some(SourceStep::Ask) {
        let answer = ask(&record)
            .await
            .context("the destination cannot be asked; the container stays frozen")?;
        step = transaction::source(record.progress, Some(answer), stands_still);
    }
    match step {
        Some(SourceStep::Ask) => anyhow::bail!(
            "{} does not know yet what became of it; the container stays frozen",
            record.peer
        ),
        Some(SourceStep::AskOperator) => anyhow::bail!(
            "{} has no record of it, or not as this host's; the container stays frozen until you have found out where \
             it runs",
            record.peer
        ),
        Some(SourceStep::AwaitDisk) => anyhow::bail!(
            "it runs on {peer}, which has not said that all is on disk there; the copy here stays frozen. \
             If {peer} was restarted in the middle of it, compare what is there first, and then decide \
             with `agent-client resolve {id}`",
            peer = record.peer,
            id = record.migration
        ),
        step => {
            carry_out(
                journal,
                record,
                copy,
                step,
                "agent-client ended while it was under way",
            )
            .await
        }
    }
}

/// Does what was decided about the copy here, and records that the migration is over, and why.
pub(crate) async fn carry_out(
    journal: &Journal,
    mut record: MigrationRecord,
    copy: SourceCopy,
    step: Option<SourceStep>,
    why: &str,
) -> anyhow::Result<End> {
    copy.tell(&record, step);
    let work = paths::work_dir(&record.migration);
    let at_work = work.clone();
    // Podman, the runtime and CRIU outlive the command that started them.
    tokio::task::spawn_blocking(move || leftover_processes::wait(&at_work, LEFTOVERS)).await??;
    let id = record.container.id.clone();
    let moved = step != Some(SourceStep::Thaw);
    tokio::task::spawn_blocking(move || match moved {
        true => let_go(&id),
        false => Ok(port_forwards::remove(&Dirs::default(), &id).map(drop)?),
    })
    .await??;
    if moved && !exists(&record).await? {
        source::remove_volumes(&work).await?;
        service::part(&work).await?;
    } else if let SourceCopy::There(source) = copy {
        match step {
            Some(SourceStep::Remove) => {
                source.remove().await?;
                service::part(&work).await?;
            }
            Some(SourceStep::Thaw) => {
                let addresses = source.facts.addresses();
                tokio::task::spawn_blocking(move || {
                    apply::back_to_container(&addresses.iter().copied().collect())?;
                    anyhow::Ok(neighbours::forget_parting(&addresses)?)
                })
                .await??;
                source.thaw().await?;
                source.release().await?;
            }
            _ => {}
        }
    }
    let (progress, end) = match step {
        Some(SourceStep::Thaw) => (Progress::RolledBack, End::Undone),
        _ => (Progress::Committed, End::Finished),
    };
    record.progress = progress;
    record.error = Some(why.to_owned());
    journal.write(&record)?;
    let _ = paths::remove_work_dir(&record.migration);
    Ok(end)
}

/// What tunnels and flows here have to do with a container that has moved. Before it is forgotten as a guest, because
/// that tells its addresses though it is gone. Blocks.
fn let_go(id: &str) -> anyhow::Result<()> {
    let dirs = Dirs::default();
    port_forwards::activate(&dirs, id)?;
    let returned = apply::forget_returned(&guests::addresses_of(&dirs, id)?)?;
    if returned > 0 {
        tracing::info!(returned, "flows do not pass this host any more");
    }
    Ok(guests::leave(&dirs, id)?)
}

/// Asks the destination of a migration what became of it.
pub(crate) async fn ask(record: &MigrationRecord) -> anyhow::Result<Fate> {
    let peer = record.peer.parse().map_err(anyhow::Error::msg)?;
    ask_fate(&peer, &record.migration).await
}

/// The container of a migration, as it is found on this host.
pub(crate) enum SourceCopy {
    /// It is not here.
    Gone,
    /// It is here and has ended, as after a power cut.
    Stopped,
    /// It runs, or is frozen.
    There(Box<Source>),
}

impl SourceCopy {
    /// Whether it does nothing, so that it may be what the migration has left behind.
    pub(crate) fn stands_still(&self) -> anyhow::Result<bool> {
        match self {
            SourceCopy::Gone => Ok(false),
            SourceCopy::Stopped => Ok(true),
            SourceCopy::There(source) => source.frozen(),
        }
    }

    /// Says what is left to the operator: a container that has come back since, and was stopped, looks the same.
    fn tell(&self, record: &MigrationRecord, step: Option<SourceStep>) {
        let (SourceCopy::Stopped, name) = (self, &record.container.name) else {
            return;
        };
        match step {
            Some(SourceStep::Thaw) => tracing::warn!("{name} is stopped here: start it"),
            _ => tracing::warn!(
                "{name} is stopped here, and has moved to {peer}: unless it has come back since, remove it here",
                peer = record.peer
            ),
        }
    }
}

async fn exists(record: &MigrationRecord) -> anyhow::Result<bool> {
    Ok(podman::exists("container", &record.container.id).await?)
}

/// Looks for the container of a migration.
pub(crate) async fn find(record: &MigrationRecord) -> anyhow::Result<SourceCopy> {
    if !exists(record).await? {
        return Ok(SourceCopy::Gone);
    }
    let (facts, local) = podman::inspect::inspect(&record.container.id).await?;
    if local.pid == 0 {
        return Ok(SourceCopy::Stopped);
    }
    let work = paths::work_dir(&record.migration);
    // It dumps nothing.
    let criu = String::new();
    let source = Source::new(facts, local, criu, work)?;
    Ok(SourceCopy::There(Box::new(source)))
}
