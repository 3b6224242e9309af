//! This host, with its Podman, as a destination.

use std::net::{IpAddr, SocketAddr};

use common::command::CommandError;
use common::container::{ContainerFacts, podman};
use common::host::HostFacts;
use common::journal::{Journal, MigrationRecord, Progress, Role};
use common::multicall::keeper_command;
use common::net::state::Dirs;
use common::net::tunnel::Tunnel;
use common::net::tunnel::agreement::{Offer, Terms};
use common::preflight::{self, Check, Side, Verdict};
use common::protocol::{Fate, MigrationId, MissingImage, RefusalCode, Refused};
use common::transaction;
use time::OffsetDateTime;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::destination::{Destination, Step, failed};
use crate::incoming::PodmanIncoming;
use crate::reservation::Reserved;
use crate::{recovery, survey};

/// The real destination.
pub struct PodmanHost {
    journal: Journal,
    reserved: Reserved,
}

impl PodmanHost {
    /// This host, keeping its records in `journal`.
    pub fn new(journal: Journal) -> Self {
        PodmanHost {
            journal,
            reserved: Reserved::default(),
        }
    }

    /// Does for one migration what a restart does for all, unless a session is working on its
    /// container. A failed undo is tried again when the source asks, since the source cannot go on
    /// without it. Returns whether it failed again.
    async fn still_fails(&self, migration: &MigrationId) -> Step<bool> {
        let Some(record) = self.journal.read(migration).map_err(failed)? else {
            return Ok(false);
        };
        let Some(_reservation) = self.reserved.reserve(&record.container.id, migration) else {
            return Ok(false);
        };
        // Read only now: a session may have ended in between.
        let records = self.journal.list().map_err(failed)?;
        let Some(record) = records.readable.iter().find(|r| r.migration == *migration) else {
            return Ok(false);
        };
        let settled = recovery::recover_one(&self.journal, record, &records).await;
        if let Err(error) = &settled {
            tracing::error!(%migration, "neither finished nor undone: {error:#}");
        }
        Ok(settled.is_err())
    }

    /// Tries again to undo what earlier migrations of this container have left behind. The
    /// container must be reserved.
    async fn recover_all(&self, container: &str) -> anyhow::Result<()> {
        let records = self.journal.list()?;
        for record in records
            .readable
            .iter()
            .filter(|r| r.container.id == container)
        {
            recovery::recover_one(&self.journal, record, &records).await?;
        }
        Ok(())
    }
}

impl Destination for PodmanHost {
    type Incoming = PodmanIncoming;

    async fn check(
        &self,
        container: &ContainerFacts,
        source: &HostFacts,
        forward_new: bool,
    ) -> Step<Vec<Check>> {
        let (host, facts, obstacles) = tokio::join!(
            HostFacts::gather(),
            survey::destination_facts(container),
            survey::obstacles(container, forward_new)
        );
        let mut checks = preflight::destination(container, source, &host, &facts);
        checks.extend(preflight::firewalls(Side::Destination, &obstacles));
        Ok(checks)
    }

    async fn begin(
        &self,
        migration: MigrationId,
        container: ContainerFacts,
        source: &HostFacts,
        from: &str,
        address: SocketAddr,
        cancel: CancellationToken,
    ) -> Step<(PodmanIncoming, Option<MissingImage>)> {
        let Some(reservation) = self.reserved.reserve(&container.id, &migration) else {
            return Err(Refused::new(
                RefusalCode::Busy,
                format!(
                    "another migration of {} to this host is under way",
                    container.name
                ),
            ));
        };
        // Leftovers of an earlier migration of the same container would be in the way.
        self.recover_all(&container.id).await.map_err(failed)?;
        // The source has asked for these checks before, but the answers may have changed.
        let checks = self.check(&container, source, false).await?;
        if let Some(failed) = checks.iter().find(|c| c.verdict == Verdict::Failed) {
            return Err(Refused::new(
                RefusalCode::Preflight,
                format!("{}: {}", failed.name, failed.detail),
            ));
        }
        let missing_image = missing_image(&container).await.map_err(failed)?;
        let record = MigrationRecord {
            migration,
            container: container.reference(),
            peer: from.to_owned(),
            direction: Role::Incoming,
            progress: Progress::UnderWay,
            started: OffsetDateTime::now_utc(),
            error: None,
        };
        let incoming = PodmanIncoming::begin(
            record,
            self.journal.clone(),
            container,
            missing_image.is_some(),
            address,
            reservation,
            cancel,
        )
        .map_err(failed)?;
        Ok((incoming, missing_image))
    }

    async fn fate(&self, migration: &MigrationId) -> Step<Fate> {
        let fails = self.still_fails(migration).await?;
        // In this order: a session that ends in between has written its last word before.
        let at_work = self.reserved.at_work(migration);
        let record = self.journal.read(migration).map_err(failed)?;
        Ok(transaction::fate(
            record.map(|r| r.progress),
            at_work || fails,
        ))
    }

    async fn introduce(&self, offer: Offer, address: IpAddr) -> Step<Terms> {
        let made = spawn_blocking(move || {
            let dirs = Dirs::default();
            // Without a lease, its keeper waits a while for it to be used.
            Tunnel::accept(&dirs, &offer, address, &keeper_command).map(|(_, terms)| terms)
        });
        made.await.map_err(failed)?.map_err(failed)
    }
}

/// What this host lacks of the container's image.
async fn missing_image(container: &ContainerFacts) -> Result<Option<MissingImage>, CommandError> {
    if podman::exists("image", &container.image_id).await? {
        return Ok(None);
    }
    let here = podman::objects::layers().await?;
    let mut layers_present = container.image_layers.clone();
    layers_present.retain(|layer| here.contains(layer));
    Ok(Some(MissingImage { layers_present }))
}
