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
use common::container::binds::{self, Bind, Made, Wish};
use common::container::checkpoint::dump;
use common::container::checkpoint::freezer::Freezer;
use common::container::files::places::{Places, Volumes};
use common::container::podman::image;
use common::container::restore::gate::{self, Staged};
use common::container::restore::timerfds;
use common::container::sockets::settings::Settings;
use common::container::{ContainerFacts, health, podman, secrets, service};
use common::journal::{Journal, MigrationRecord, Progress};
use common::net::flows::decide::MovedFlow;
use common::net::flows::{guests, neighbours, port_forwards};
use common::net::packets::queue::Count;
use common::net::state::Dirs;
use common::net::tunnel::agreement::{Offer, Terms};
use common::paths;
use common::protocol::{Packets, RefusalCode, Refused, StreamDigest, StreamKind};
use common::ticket::Ticket;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::destination::{Incoming, Step, failed};
use crate::reservation::Reservation;
use crate::scratch::{self, Created, SKELETON, UndoList};
use flows::Flows;
use link::{Content, Link};
use memory::Memory;
use network::Network;
use stage::{Stage, unless_cancelled};

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
    /// Its volumes, once they were made.
    volumes: Option<Volumes>,
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
            volumes: None,
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

    fn places(&self) -> Step<Places> {
        let nothing = || Refused::new(RefusalCode::Protocol, "nothing is staged");
        self.places.clone().ok_or_else(nothing)
    }

    /// Makes the container's volumes and places for bind mounts that are sent, unless they were made already.
    /// Returns the directories among them.
    async fn make_volumes(&mut self) -> anyhow::Result<Volumes> {
        if let Some(made) = &self.volumes {
            return Ok(made.clone());
        }
        let mut made = Volumes::new();
        for volume in &self.container.volumes {
            let name = &volume.name;
            self.undo.will_create(Created::Volume(name.clone()))?;
            let made_now = async {
                podman::objects::create_volume(volume).await?;
                podman::objects::volume_directory(name).await
            };
            let directory = unless_cancelled(&self.cancel, made_now).await?;
            made.insert(volume.destination.clone(), directory);
        }
        for (number, bind) in (0..).zip(binds::sent(&self.container.binds)) {
            let place = Made::plan(bind, self.record.migration.as_str(), number)?;
            if bind.kind == binds::Kind::Directory {
                made.insert(bind.destination.clone(), place.path().to_owned());
            }
            let overwrite = bind.wish == Wish::Send { overwrite: true };
            scratch::make_place(&mut self.undo, place, overwrite).await?;
        }
        self.volumes = Some(made.clone());
        Ok(made)
    }

    async fn try_stage(&mut self) -> anyhow::Result<Packets> {
        self.make_volumes().await?;
        let mut stage = Stage {
            container: &self.container,
            migration: &self.record.migration,
            undo: &mut self.undo,
            cancel: &self.cancel,
        };
        let (staged, places) = stage.run().await?;
        self.bundle = staged.bundle.clone();
        self.network = Network::new(places.netns.clone());
        self.memory.start_pager(&self.container.id, &staged).await?;
        self.staged = Some(staged);
        self.places = Some(places);
        self.welcome().await?;
        secrets::make_mount_points(&self.bundle).context("cannot prepare its secrets")?;
        let parameters = self.container.sysctls.clone();
        self.network.set_parameters(parameters).await?;
        let interfaces = self.container.default_interfaces.clone();
        self.network.order_default_routes(interfaces).await?;
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
        let bundle = self.bundle.clone();
        let arrived = move || guests::arrive(&Dirs::default(), tunnel, &id, &addresses, &bundle);
        spawn_blocking(arrived).await??;
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

    /// Sets what CRIU does not keep of the container's sockets. The programs run already, but nothing reaches them
    /// before the commit. Returns what is lost.
    async fn set_again(id: String, settings: Settings) -> anyhow::Result<Vec<String>> {
        let set = move || {
            let cgroup = Freezer::of_container(&id);
            let processes = cgroup.map(|cgroup| cgroup.processes());
            settings.set(&processes.unwrap_or_default())
        };
        let lost = spawn_blocking(set).await??;
        Ok(lost.into_iter().collect())
    }

    async fn try_restore(&mut self) -> Step<Vec<String>> {
        let staged = self
            .staged
            .as_mut()
            .ok_or_else(|| Refused::new(RefusalCode::Protocol, "nothing is staged"))?;
        let (images, binds) = (staged.checkpoint.clone(), self.container.binds.clone());
        let prepared = spawn_blocking(move || {
            // What has been sent since they were compared, or somebody here, may have put links there.
            binds.iter().try_for_each(Bind::is_direct)?;
            timerfds::mend(&images)?;
            anyhow::Ok(Settings::beside(&images)?)
        });
        let settings = prepared.await.map_err(failed)?.map_err(failed)?;
        let proven = self.memory.prove(staged).await;
        proven.map_err(|error| failed(error.context("not all memory is here")))?;
        let (runtime, id) = (self.container.runtime_name(), &self.container.id);
        let restored = staged.open(runtime, id, self.memory.pager()).await;
        let Err(error) = restored else {
            self.staged = None;
            self.network.put_mtus_back().await.map_err(failed)?;
            let set = Self::set_again(self.container.id.clone(), settings);
            return set.await.map_err(failed);
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
        let content = match kind {
            StreamKind::Memory => {
                let (id, undo) = (&self.container.id, &mut self.undo);
                let store = self.memory.prepare(id, undo).await.map_err(failed)?;
                let accept = self.link.expect(stream).await?;
                self.memory.receive(store, accept);
                return Ok(());
            }
            StreamKind::Image => Content::Image {
                work: self.undo.work().to_owned(),
                most_bytes: image::most_bytes(self.container.image_bytes),
            },
            StreamKind::Skeleton => Content::File(self.undo.work().join(SKELETON)),
            StreamKind::Volumes => Content::Volumes(self.make_volumes().await.map_err(failed)?),
            StreamKind::Files => Content::Files(self.places()?),
            StreamKind::Checkpoint => Content::Checkpoint(self.places()?),
        };
        self.link.receive(stream, content).await
    }

    async fn stream_end(&mut self, digest: StreamDigest) -> Step<Vec<String>> {
        self.link.stream_end(digest).await
    }

    async fn memory_end(&mut self, digest: StreamDigest) -> Step<()> {
        self.memory.end(digest).await
    }

    async fn stage(&mut self) -> Step<Packets> {
        self.try_stage().await.map_err(failed)
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

    async fn restore(&mut self) -> Step<Vec<String>> {
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
        let work = self.undo.work().to_owned();
        let forgotten = spawn_blocking(move || scratch::forget_old(&work)).await;
        if let Err(error) = forgotten.map_err(anyhow::Error::from).flatten() {
            tracing::error!("what had to make place is still there: {error:#}");
            return;
        }
        if let Err(error) = paths::remove_work_dir(&self.record.migration) {
            tracing::warn!("{}: {error}", self.undo.work().display());
        }
    }

    fn packets(&self) -> Option<Count> {
        self.network.count()
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
