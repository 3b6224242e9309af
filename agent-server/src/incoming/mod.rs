//! A container on its way to this host.

mod flows;
mod link;
mod memory;
mod network;
mod stage;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use common::container::checkpoint::dump;
use common::container::files::places::Places;
use common::container::restore::gate::{self, Staged};
use common::container::restore::{pager, timerfds};
use common::container::{ContainerFacts, health, secrets, service};
use common::journal::{Journal, MigrationRecord, Progress};
use common::net::flows::decide::MovedFlow;
use common::net::flows::{guests, neighbours, port_forwards};
use common::net::state::Dirs;
use common::net::tunnel::agreement::{Offer, Terms};
use common::paths;
use common::protocol::{Packets, RefusalCode, Refused, StreamDigest, StreamKind};
use common::ticket::Ticket;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::destination::{Incoming, Step, failed};
use crate::reservation::Reservation;
use crate::scratch::{Created, UndoList};
use flows::Flows;
use link::Link;
use memory::Memory;
use network::Network;
use stage::Stage;

/// A container that now runs here for good gets back its service and the timer of its health
/// checks. May be repeated.
pub(crate) async fn watch_over(container: &ContainerFacts) -> anyhow::Result<()> {
    if let Some(service) = &container.service {
        service::arrived(service, &container.id).await?;
    }
    if let Some(health) = &container.health {
        health::begin(&container.id, health).await?;
    }
    Ok(())
}

/// Has what came with a container put on disk.
async fn put_on_disk(places: Option<Places>) -> anyhow::Result<()> {
    let places = places.context("it was never staged")?;
    Ok(spawn_blocking(move || places.sync()).await??)
}

fn not_staged() -> Refused {
    Refused::new(RefusalCode::Protocol, "nothing is staged")
}

/// A migration under way at this host.
pub struct PodmanIncoming {
    record: MigrationRecord,
    journal: Journal,
    container: ContainerFacts,
    image_missing: bool,
    undo: UndoList,
    cancel: CancellationToken,
    link: Link,
    staged: Option<Staged>,
    /// Where its pieces belong, once it is staged.
    places: Option<Places>,
    bundle: PathBuf,
    network: Network,
    memory: Memory,
    flows: Flows,
    reservation: Reservation,
}

impl PodmanIncoming {
    /// Opens a migration: its record and its work directory.
    pub(crate) fn begin(
        record: MigrationRecord,
        journal: Journal,
        container: ContainerFacts,
        image_missing: bool,
        source: SocketAddr,
        reservation: Reservation,
        cancel: CancellationToken,
    ) -> anyhow::Result<Self> {
        let peer = record.owner.context("the migration belongs to no peer")?;
        let work = paths::work_dir(&record.migration);
        journal
            .write(&record)
            .context("cannot write the migration's record")?;
        let mut undo = UndoList::new(work)?;
        if image_missing {
            undo.will_create(Created::Image(container.image_id.clone()))?;
        }
        Ok(PodmanIncoming {
            container,
            image_missing,
            undo,
            link: Link::new(source.ip().to_canonical(), peer, cancel.clone()),
            cancel,
            staged: None,
            places: None,
            bundle: PathBuf::new(),
            network: Network::default(),
            memory: Memory::default(),
            flows: Flows::default(),
            record,
            journal,
            reservation,
        })
    }

    /// Ends what may still be running, then undoes what the migration has done.
    async fn undo_all(&mut self) -> Vec<String> {
        self.cancel.cancel();
        self.link.end_stream().await;
        if let Some(staged) = self.staged.take() {
            staged.cancel().await;
            let (runtime, id) = (self.container.runtime.clone(), self.container.id.clone());
            let ended = spawn_blocking(move || gate::end_processes(&runtime, &id)).await;
            if let Err(error) = ended.map_err(anyhow::Error::from).and_then(|r| Ok(r?)) {
                tracing::warn!("{} may have left processes: {error}", self.container.name);
            }
        }
        self.memory.give_up().await;
        let leftovers = self.undo.actions.unwind().await;
        self.network.give_up();
        // `created.json` there says what is left.
        if leftovers.is_empty()
            && let Err(error) = paths::remove_work_dir(&self.record.migration)
        {
            tracing::warn!("{}: {error}", self.undo.work().display());
        }
        self.link.close().await;
        leftovers
    }

    async fn try_stage(&mut self) -> anyhow::Result<Packets> {
        let mut stage = Stage {
            container: &self.container,
            migration: &self.record.migration,
            undo: &mut self.undo,
            cancel: &self.cancel,
        };
        let (staged, places) = stage.run().await?;
        self.bundle = staged.bundle.clone();
        self.network = Network::new(places.netns.clone());
        self.staged = Some(staged);
        self.places = Some(places);
        self.welcome().await?;
        secrets::make_mount_points(&self.bundle).context("cannot prepare its secrets")?;
        let parameters = self.container.sysctls.clone();
        self.network.set_parameters(parameters).await?;
        // Nothing may reach the container or leave it before the commit.
        self.network.cut_off().await
    }

    /// Lets the source reach the container through the tunnel.
    async fn welcome(&mut self) -> anyhow::Result<()> {
        let tunnel = self.link.tunnel()?.index();
        let (id, addresses) = (self.container.id.clone(), self.container.addresses());
        let leaving = id.clone();
        self.undo.actions.register("guest", move || async move {
            Ok(spawn_blocking(move || guests::leave(&Dirs::default(), &leaving)).await??)
        });
        spawn_blocking(move || guests::arrive(&Dirs::default(), tunnel, &id, &addresses)).await??;
        Ok(())
    }

    /// Records the commit and releases the packets.
    async fn try_commit(&mut self) -> anyhow::Result<()> {
        // On disk before the first packet can leave: after a crash in between, the container is
        // kept, and the source is told so when it asks.
        self.record.progress = Progress::Committed;
        self.journal.write(&self.record)?;
        self.network.let_packets_pass().await
    }

    /// Takes back a commit that failed. That is possible because no packet has left yet, but it
    /// holds only once it is on disk: until then the record may say `committed`, and that must stay
    /// true.
    fn take_back(&mut self) -> io::Result<()> {
        let under_way = MigrationRecord {
            progress: Progress::UnderWay,
            ..self.record.clone()
        };
        self.journal.write(&under_way)?;
        self.record = under_way;
        Ok(())
    }

    /// Removes what only the outage needed, and gives the container to those who look after it.
    async fn look_after(&mut self) -> anyhow::Result<()> {
        let reopened = self.network.reopen().await;
        reopened.context("its packets may not pass")?;
        let addresses = self.container.addresses();
        let forgotten = spawn_blocking(move || neighbours::forget_parting(&addresses)).await?;
        forgotten.context("its neighbours may not reach it")?;
        let id = self.container.id.clone();
        let ended = spawn_blocking(move || port_forwards::remove(&Dirs::default(), &id)).await?;
        ended.context("new connections to it may go elsewhere")?;
        let watched = watch_over(&self.container).await;
        watched.context("it is not looked after yet")
    }

    async fn try_restore(&mut self) -> Step<()> {
        let staged = self.staged.as_mut().ok_or_else(not_staged)?;
        let images = staged.checkpoint.clone();
        spawn_blocking(move || timerfds::mend(&images))
            .await
            .map_err(failed)?
            .map_err(failed)?;
        let proven = self.memory.prove(staged).await;
        proven.map_err(|error| failed(error.context("not all memory is here")))?;
        let (runtime, id) = (self.container.runtime_name(), &self.container.id);
        let restored = staged.open(runtime, id, self.memory.pager()).await;
        let Err(error) = restored else {
            self.staged = None;
            return self.network.put_mtus_back().await.map_err(failed);
        };
        let log = self.bundle.join("restore.log");
        let mut refused = match dump::criu_error(&log) {
            Some(line) => Refused::new(
                RefusalCode::Failed,
                format!("CRIU could not restore the container: {line}"),
            ),
            None => failed(error),
        };
        refused.log = paths::keep_log(&paths::server_dir(), &self.record.migration, &log)
            .ok()
            .map(|kept| kept.display().to_string());
        Err(refused)
    }
}

impl Incoming for PodmanIncoming {
    async fn open_tunnel(&mut self, offer: Offer) -> Step<Terms> {
        self.link.open_tunnel(offer).await
    }

    async fn prove_tunnel(&mut self) -> Step<(SocketAddr, Ticket)> {
        self.link.prove_tunnel().await
    }

    async fn receive(&mut self, stream: u32, kind: StreamKind) -> Step<()> {
        if kind == StreamKind::Image && !self.image_missing {
            return Err(Refused::new(
                RefusalCode::Protocol,
                "the image is here and was not asked for",
            ));
        }
        if kind == StreamKind::Memory {
            let staged = self.staged.as_ref().ok_or_else(not_staged)?;
            let (id, undo) = (&self.container.id, &mut self.undo);
            let store = self.memory.prepare(id, staged, undo).await;
            let store = store.map_err(failed)?;
            let accept = self.link.expect(stream).await?;
            self.memory.receive(store, accept);
            return Ok(());
        }
        self.link
            .receive(stream, kind, self.undo.work(), self.places.clone())
            .await
    }

    async fn stream_end(&mut self, digest: StreamDigest) -> Step<Vec<String>> {
        self.link.stream_end(digest).await
    }

    async fn memory_end(&mut self, digest: StreamDigest) -> Step<()> {
        self.memory.end(digest).await
    }

    async fn stage(&mut self) -> Step<(Packets, u64)> {
        let packets = self.try_stage().await.map_err(failed)?;
        let room = spawn_blocking(pager::room_bytes).await.map_err(failed)?;
        Ok((packets, room))
    }

    async fn flows(&mut self, flows: Vec<MovedFlow>) -> Step<usize> {
        let index = self.link.tunnel().map_err(failed)?.index();
        let netns = self.network.netns();
        self.flows
            .install(flows, index, netns, &self.container, &mut self.undo)
            .await
            .map_err(failed)
    }

    async fn redirect(&mut self) -> Step<()> {
        self.flows.redirect().await.map_err(failed)
    }

    async fn restore(&mut self) -> Step<()> {
        self.try_restore().await
    }

    async fn commit(&mut self) -> Step<()> {
        if let Err(error) = self.try_commit().await {
            // The session rolls back after an error, unless the record still says `committed`.
            self.take_back().map_err(failed)?;
            return Err(failed(error));
        }
        self.undo.actions.disarm();
        self.memory.leave();
        self.reservation.decided();
        tracing::info!(migration = %self.record.migration, container = self.container.name, "committed");
        Ok(())
    }

    async fn finish_outage(&mut self) {
        self.link.leave();
        let put_on_disk = put_on_disk(self.places.take());
        let (looked_after, on_disk) = tokio::join!(self.look_after(), put_on_disk);
        // The scratch space stays if anything is left to do: it tells the next start of the server.
        if let Err(error) = looked_after {
            tracing::error!("{}: {error:#}", self.container.name);
            return;
        }
        self.record.progress = Progress::OnDisk;
        let recorded = on_disk.and_then(|()| Ok(self.journal.write(&self.record)?));
        if let Err(error) = recorded {
            tracing::error!("{} may not be on disk: {error:#}", self.container.name);
            return;
        }
        if let Err(error) = paths::remove_work_dir(&self.record.migration) {
            tracing::warn!("{}: {error}", self.undo.work().display());
        }
    }

    async fn roll_back(&mut self, why: &str) -> Vec<String> {
        if self.record.progress.committed() {
            return Vec::new();
        }
        tracing::info!(migration = %self.record.migration, container = self.container.name, "rolling back: {why}");
        let leftovers = self.undo_all().await;
        if leftovers.is_empty() {
            self.record.progress = Progress::RolledBack;
        }
        self.record.error = Some(why.to_owned());
        if let Err(error) = self.journal.write(&self.record) {
            tracing::error!("cannot write the migration's record: {error}");
        }
        leftovers
    }
}
