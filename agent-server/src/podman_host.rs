//! This host, with its Podman, as a destination.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use common::command::CommandError;
use common::container::binds::Allowed;
use common::container::{ContainerFacts, podman};
use common::host::{self, HostFacts};
use common::journal::{Journal, MigrationRecord, Progress, Role};
use common::multicall::keeper_command;
use common::net::flows::guests;
use common::net::state::{Claim, Dirs, Record};
use common::net::tunnel::Tunnel;
use common::net::tunnel::agreement::{Offer, Terms};
use common::preflight::{self, Check, Side, Verdict};
use common::protocol::{Fate, MigrationId, MissingImage, RefusalCode, Refused};
use common::transaction;
use time::OffsetDateTime;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use trust::Peer;

use crate::destination::{Destination, Step, failed};
use crate::incoming::PodmanIncoming;
use crate::reservation::Reserved;
use crate::{recovery, survey};

/// The real destination.
pub struct PodmanHost {
    journal: Journal,
    /// Where peers may bind and put things.
    allowed: Allowed,
    reserved: Reserved,
}

impl PodmanHost {
    /// This host, keeping its records in `journal`. What is `allowed` its peers may bind.
    pub fn new(journal: Journal, allowed: Allowed) -> Self {
        PodmanHost {
            journal,
            allowed,
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
        let recovered = recovery::recover_one(&self.journal, record, &records).await;
        if let Err(error) = &recovered {
            tracing::error!(%migration, "neither finished nor undone: {error:#}");
        }
        Ok(recovered.is_err())
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
        let (mut host, (facts, obstacles)) = tokio::join!(
            HostFacts::gather_but_podman(),
            // What is known of a container takes much of a thread's stack in each function that it passes.
            Box::pin(survey::survey(container, &self.allowed, forward_new))
        );
        host.podman = facts.podman.as_ref().map(|podman| podman.version.clone());
        let mut checks = preflight::destination(container, source, &host, &facts);
        checks.extend(preflight::firewalls(
            Side::Destination,
            container,
            &obstacles,
        ));
        Ok(checks)
    }

    async fn begin(
        &self,
        migration: MigrationId,
        container: ContainerFacts,
        source: &HostFacts,
        peer: &Peer,
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
        let record = self.journal.read(&migration).map_err(failed)?;
        if !transaction::may_begin(record.map(|r| r.progress)) {
            return Err(Refused::new(
                RefusalCode::Busy,
                format!("there is a migration {migration} here already"),
            ));
        }
        recovery::prune(&self.journal);
        // The source has applied these rules too, if it is what it should be.
        refuse_failed(&preflight::source(&container, source))?;
        // Leftovers of an earlier migration of the same container would be in the way.
        self.recover_all(&container.id).await.map_err(failed)?;
        // The source has asked for these checks before, but the answers may have changed.
        let looked = async {
            refuse_failed(&Box::pin(self.check(&container, source, false)).await?)?;
            missing_image(&container).await.map_err(failed)
        };
        // Nothing is made yet, so a Podman that hangs can be abandoned.
        let missing_image = cancel
            .run_until_cancelled(looked)
            .await
            .unwrap_or_else(|| Err(Refused::new(RefusalCode::Cancelled, "cancelled")))?;
        let record = MigrationRecord {
            migration,
            container: container.reference(),
            peer: peer.name.clone(),
            owner: Some(peer.fingerprint),
            direction: Role::Incoming,
            progress: Progress::UnderWay,
            started: OffsetDateTime::now_utc(),
            error: None,
            boot: host::boot(),
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

    async fn fate(&self, migration: &MigrationId, peer: &Peer) -> Step<Fate> {
        let record = self.journal.read(migration).map_err(failed)?;
        let theirs = record.is_some_and(|r| r.owner == Some(peer.fingerprint));
        let fails = theirs && self.still_fails(migration).await?;
        // In this order: a session that ends in between has written its last word before.
        let at_work = self.reserved.at_work(migration);
        let record = self.journal.read(migration).map_err(failed)?;
        Ok(transaction::fate(
            record.map(|r| r.progress),
            theirs,
            at_work || fails,
        ))
    }

    fn under_way(&self) -> usize {
        self.reserved.under_way()
    }

    async fn introduce(&self, offer: Offer, address: IpAddr, peer: &Peer) -> Step<Terms> {
        let peer = peer.fingerprint;
        let made = spawn_blocking(move || {
            let dirs = Dirs::default();
            let introducer = Record::of_client(&dirs, peer)?;
            let introducer = introducer.context("no container came from the host that asks")?;
            let claim = Claim::Introduced(introducer.view()?.peer.public_key);
            // Without a lease, its keeper waits a while for it to be used.
            let (tunnel, terms) = Tunnel::accept(&dirs, &offer, address, &claim, &keeper_command)?;
            // New connections to what came from there may come from here from now on.
            guests::share(&dirs, introducer.index, tunnel.index())?;
            anyhow::Ok(terms)
        });
        made.await.map_err(failed)?.map_err(failed)
    }
}

/// Refuses a container that cannot come.
fn refuse_failed(checks: &[Check]) -> Step<()> {
    let failed = checks.iter().filter(|c| c.verdict == Verdict::Failed);
    let why: Vec<_> = failed
        .map(|check| format!("{}: {}", check.name, check.detail))
        .collect();
    match why.is_empty() {
        true => Ok(()),
        false => Err(Refused::new(RefusalCode::Preflight, why.join("\n"))),
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

#[cfg(test)]
mod tests {
    use super::*;
    use common::protocol::ContainerRef;

    fn peer(name: &str, byte: &str) -> Peer {
        Peer::new(name, byte.repeat(32).parse().unwrap(), None).unwrap()
    }

    #[tokio::test]
    async fn the_rules_of_the_source_hold_here_too() {
        let dir = tempfile::tempdir().unwrap();
        let host = PodmanHost::new(Journal::at(dir.path().to_owned()), Allowed::default());
        let container = ContainerFacts {
            other_mounts: vec!["/etc (overlay)".into()],
            devices: vec!["/dev/sda".into()],
            ..ContainerFacts::default()
        };
        let source = HostFacts::default();
        let owner = peer("source", "a1");
        let begun = host.begin(
            MigrationId::random(),
            container,
            &source,
            &owner,
            SocketAddr::from(([192, 0, 2, 1], 1)),
            CancellationToken::new(),
        );
        let refused = begun.await.err().expect("it cannot come");
        assert_eq!(refused.code, RefusalCode::Preflight);
        for rule in ["mount: /etc (overlay)", "devices: /dev/sda"] {
            assert!(refused.message.contains(rule), "{}", refused.message);
        }
    }

    #[tokio::test]
    async fn a_migration_is_told_and_opened_for_its_own_peer_only() {
        let dir = tempfile::tempdir().unwrap();
        let host = PodmanHost::new(Journal::at(dir.path().to_owned()), Allowed::default());
        let (own, other) = (peer("twin", "a1"), peer("twin", "b2"));
        let record = MigrationRecord {
            migration: MigrationId::random(),
            container: ContainerRef {
                id: "c0".repeat(32),
                name: "web".into(),
            },
            peer: own.name.clone(),
            owner: Some(own.fingerprint),
            direction: Role::Incoming,
            progress: Progress::Committed,
            started: OffsetDateTime::now_utc(),
            error: None,
            boot: None,
        };
        host.journal.write(&record).unwrap();
        let id = &record.migration;
        assert_eq!(host.fate(id, &own).await, Ok(Fate::Committed));
        assert_eq!(host.fate(id, &other).await, Ok(Fate::Unknown));
        assert_eq!(
            host.fate(&MigrationId::random(), &other).await,
            Ok(Fate::Unknown)
        );

        let source = HostFacts::default();
        for peer in [&own, &other] {
            let begun = host.begin(
                id.clone(),
                ContainerFacts::default(),
                &source,
                peer,
                SocketAddr::from(([192, 0, 2, 1], 1)),
                CancellationToken::new(),
            );
            let refused = begun.await.err().expect("the id is taken");
            assert_eq!(refused.code, RefusalCode::Busy);
        }
        assert_eq!(host.journal.read(id).unwrap(), Some(record));
    }
}
