//! After a crash: recorded migrations that no session is working on any more.

use std::path::Path;
use std::time::Duration;

use common::container::files::places::Places;
use common::container::restore::{gate, pager};
use common::container::spec::Spec;
use common::container::{ContainerFacts, leftover_processes, podman};
use common::durable;
use common::host;
use common::journal::{self, Journal, MigrationRecord, Progress, Records};
use common::net::flows::{guests, neighbours, port_forwards};
use common::net::packets::quarantine;
use common::net::state::Dirs;
use common::paths;
use common::transaction::{self, DestinationStep};
use time::OffsetDateTime;
use tokio::task::spawn_blocking;

use crate::incoming;
use crate::scratch::{self, Created};

/// How much longer a program that an earlier server started may take.
const LEFTOVERS: Duration = Duration::from_secs(60);

/// Undoes every migration that an earlier server left unfinished, and finishes those that it had
/// committed. Call before any new one begins.
///
/// Nothing that an uncommitted container sent can have left this host: its network namespace was
/// quarantined before it ran. So removing it loses nothing, and the source still has it.
pub async fn recover(journal: &Journal) -> anyhow::Result<()> {
    if let Err(error) = pager::sweep() {
        tracing::error!("memory that came ahead is not given back: {error}");
    }
    let records = journal.list()?;
    for record in &records.unreadable {
        tracing::error!("a migration may be unfinished: {record}");
    }
    for record in &records.readable {
        // One that can be neither finished nor undone must not block the others, or new ones. It
        // stays on record: the next restart tries again, and so does a source that asks.
        if let Err(error) = recover_one(journal, record, &records).await {
            tracing::error!(migration = %record.migration, container = record.container.name,
                                "neither finished nor undone: {error:#}");
        }
    }
    prune(journal);
    Ok(())
}

/// Removes the records and logs that are too old to be of use.
pub(crate) fn prune(journal: &Journal) {
    let open = |record: &MigrationRecord| {
        let scratch = paths::work_dir(&record.migration).exists();
        transaction::unsettled(record.progress, scratch)
    };
    let pruned = journal.prune(OffsetDateTime::now_utc(), open);
    let pruned =
        pruned.and_then(|()| paths::prune_logs(&paths::server_dir(), journal::KEPT.unsigned_abs()));
    if let Err(error) = pruned {
        tracing::warn!("old records are not removed: {error}");
    }
}

/// Finishes or undoes the migration of `record`, one of `records`. No session may be working on its
/// container.
pub(crate) async fn recover_one(
    journal: &Journal,
    record: &MigrationRecord,
    records: &Records,
) -> anyhow::Result<()> {
    // It may be of the migration that has brought the container here since.
    if let Some(unreadable) = records.unreadable_of(&record.container.id)
        && transaction::destination(record.progress, false) == Some(DestinationStep::Undo)
    {
        anyhow::bail!("{unreadable}");
    }
    match transaction::destination(record.progress, arrived_since(record, &records.readable)) {
        Some(DestinationStep::ReleasePackets) => release_packets(journal, record.clone()).await,
        Some(DestinationStep::Undo) => undo(journal, record.clone()).await,
        None => Ok(()),
    }
}

/// Whether a later migration than that of `record` has brought the same container here.
fn arrived_since(record: &MigrationRecord, records: &[MigrationRecord]) -> bool {
    records.iter().any(|other| {
        other.container.id == record.container.id
            && other.progress.committed()
            && other.started > record.started
    })
}

/// Removes what an uncommitted migration has created.
async fn undo(journal: &Journal, mut record: MigrationRecord) -> anyhow::Result<()> {
    tracing::warn!(migration = %record.migration, container = record.container.name,
        "undoing a migration that was left under way");
    let work = paths::work_dir(&record.migration);
    // Podman outlives the server that started it, and may be about to create what is removed here.
    let at_work = work.clone();
    spawn_blocking(move || leftover_processes::wait(&at_work, LEFTOVERS)).await??;
    let id = record.container.id.clone();
    spawn_blocking(move || gate::forget(&id)).await?;
    podman::objects::remove_container(&record.container.id).await?;
    let id = record.container.id.clone();
    spawn_blocking(move || port_forwards::activate(&Dirs::default(), &id)).await??;
    let id = record.container.id.clone();
    spawn_blocking(move || guests::leave(&Dirs::default(), &id)).await??;
    for installed in scratch::installed(&work) {
        spawn_blocking(move || installed.remove()).await??;
    }
    for created in scratch::created(&work)? {
        created.remove().await?;
    }
    paths::remove_work_dir(&record.migration)?;
    record.progress = Progress::RolledBack;
    record
        .error
        .get_or_insert("the destination's agent ended while it was under way".into());
    journal.write(&record)?;
    Ok(())
}

/// Releases the packets of a container whose commit was recorded, but perhaps not carried out, and puts
/// on disk what came with it.
async fn release_packets(journal: &Journal, mut record: MigrationRecord) -> anyhow::Result<()> {
    // The scratch space is removed once they have left.
    let work = paths::work_dir(&record.migration);
    if !work.exists() {
        return Ok(());
    }
    if podman::exists("container", &record.container.id).await? {
        let (facts, local) = podman::inspect::inspect(&record.container.id).await?;
        // The network namespace of one that has ended is gone, and with it what kept the packets back.
        if local.pid != 0
            && let Some(netns) = Spec::read(&local.bundle)?.netns().map(Path::to_owned)
        {
            spawn_blocking(move || quarantine::lift(&netns)).await??;
        }
        let addresses = facts.addresses();
        spawn_blocking(move || neighbours::forget_parting(&addresses)).await??;
        if record.progress == Progress::Committed && record.boot == host::boot() {
            let (bundle, volumes) = (local.bundle.clone(), facts.volumes.clone());
            spawn_blocking(move || {
                let checkpoint = bundle.join("checkpoint");
                Places::read(&bundle, checkpoint, &volumes, &[])?.sync()
            })
            .await??;
            let created = scratch::created(&work)?;
            spawn_blocking(move || {
                let binds = created.iter().filter_map(|created| match created {
                    Created::Bind(made) => Some(made.path()),
                    _ => None,
                });
                durable::sync_file_systems(binds)
            })
            .await??;
        }
        // systemd now says of it what it was told for the restore: the source knows better.
        let service = scratch::created(&work)?
            .into_iter()
            .find_map(|made| match made {
                Created::Service(service) => Some(*service),
                _ => None,
            });
        incoming::watch_over(&ContainerFacts { service, ..facts }).await?;
    }
    let id = record.container.id.clone();
    spawn_blocking(move || port_forwards::remove(&Dirs::default(), &id)).await??;
    if record.boot == host::boot() {
        record.progress = Progress::OnDisk;
        journal.write(&record)?;
    } else if record.progress == Progress::Committed {
        tracing::error!(migration = %record.migration, container = record.container.name,
            "this host was restarted before all that came was on disk: compare with the copy at the \
             source, which stays frozen");
    }
    if record.progress == Progress::OnDisk {
        let old = work.clone();
        spawn_blocking(move || scratch::forget_old(&old)).await??;
    }
    paths::remove_work_dir(&record.migration)?;
    Ok(())
}
