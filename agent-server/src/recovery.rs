//! After a crash: migrations on record that nobody carries on any more.

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::container::podman::inspect::Placement;
use common::container::restore::gate;
use common::container::spec::Layout;
use common::container::{ContainerFacts, leftover_processes, podman};
use common::durable;
use common::host;
use common::journal::{Journal, MigrationRecord, Progress};
use common::net::flows::{neighbours, port_forwards};
use common::net::packets::quarantine;
use common::net::state::Dirs;
use common::paths;
use common::transaction::{self, DestinationStep};
use tokio::task::spawn_blocking;

use crate::incoming;
use crate::scratch::{self, Created};

/// How long a program that an earlier server started may still take.
const LEFTOVERS: Duration = Duration::from_secs(60);

/// Undoes every migration that an earlier server left under way, and finishes those that it had
/// committed. Call before any new one begins.
///
/// Nothing of an uncommitted container's output can have left this host: its network namespace was
/// quarantined before it ran, so removing it loses nothing, and the source still has it.
pub async fn recover(journal: &Journal) -> anyhow::Result<()> {
    let records = journal.list()?;
    for record in &records {
        // One that cannot be settled must not keep the others, or new ones, from their turn. It
        // stays on record: the next restart tries again, and so does a source that asks.
        if let Err(error) = recover_one(journal, record, &records).await {
            tracing::error!(migration = %record.migration, container = record.container.name,
                "not settled: {error:#}");
        }
    }
    Ok(())
}

/// Finishes or undoes the migration of `record`, one of `records`. No session may be at work on its
/// container.
pub(crate) async fn recover_one(
    journal: &Journal,
    record: &MigrationRecord,
    records: &[MigrationRecord],
) -> anyhow::Result<()> {
    match transaction::destination(record.progress, arrived_since(record, records)) {
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

/// Removes what an uncommitted migration has made.
async fn undo(journal: &Journal, mut record: MigrationRecord) -> anyhow::Result<()> {
    tracing::warn!(migration = %record.migration, container = record.container.name,
        "undoing a migration that was left under way");
    let work = paths::work_dir(&record.migration);
    // Podman outlives the server that started it, and may be about to make what is removed here.
    let at_work = work.clone();
    spawn_blocking(move || leftover_processes::wait(&at_work, LEFTOVERS)).await??;
    let id = record.container.id.clone();
    spawn_blocking(move || gate::forget(&id)).await?;
    podman::objects::remove_container(&record.container.id).await?;
    let id = record.container.id.clone();
    spawn_blocking(move || port_forwards::activate(&Dirs::default(), &id)).await??;
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

/// Lets the packets of a container out whose commit was written down, but perhaps not carried out, and has
/// what came with it put on disk.
async fn release_packets(journal: &Journal, mut record: MigrationRecord) -> anyhow::Result<()> {
    // The scratch space goes when they are out.
    let work = paths::work_dir(&record.migration);
    if !work.exists() {
        return Ok(());
    }
    if podman::exists("container", &record.container.id).await? {
        let (facts, placement) = podman::inspect::inspect(&record.container.id).await?;
        if !placement.netns.is_empty() {
            let netns = PathBuf::from(&placement.netns);
            spawn_blocking(move || quarantine::lift(&netns)).await??;
        }
        let addresses = facts.addresses();
        spawn_blocking(move || neighbours::forget_parting(&addresses)).await??;
        if record.progress == Progress::Committed && record.boot == host::boot() {
            put_on_disk(placement.clone()).await?;
        }
        // What systemd says of it now is what it was told for the restore: the source knows better.
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
    paths::remove_work_dir(&record.migration)?;
    Ok(())
}

/// Has what came with a container put on disk.
async fn put_on_disk(placement: Placement) -> anyhow::Result<()> {
    let synced = spawn_blocking(move || {
        let config = PathBuf::from(&placement.oci_config);
        let layout = Layout::read(&config)?;
        let upper = Path::new(&placement.upper_dir);
        let binds = layout.binds.values().map(PathBuf::as_path);
        durable::sync_file_systems([upper].into_iter().chain(config.parent()).chain(binds))
    });
    Ok(synced.await??)
}
