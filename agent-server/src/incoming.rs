//! A container on its way to this host.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use common::bulk::{self, Receiving};
use common::container::cargo::{self, Places};
use common::container::gate::{self, Owner, Staged};
use common::container::service::{self, ServiceFacts};
use common::container::{ContainerFacts, apparmor, dump, health, image, podman, spec, timerfds};
use common::journal::{Journal, MigrationRecord, Progress};
use common::multicall::keeper_command;
use common::net::admit;
use common::net::carry::{self, Arriving, Here};
use common::net::flows::{self, MovedFlow};
use common::net::forward::{self, Part};
use common::net::hold::Hold;
use common::net::neighbours::{self, Parting};
use common::net::plan::{Offer, Terms};
use common::net::published;
use common::net::quarantine;
use common::net::routes::Routes;
use common::net::segments::{self, Mtus};
use common::net::sysctl;
use common::net::tunnel::{Dirs, PROOF_LIMIT, Tunnel};
use common::paths;
use common::protocol::{Packets, RefusalCode, Refused, StreamDigest, StreamKind};
use common::ticket::Ticket;
use common::undo::Undo;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::destination::{Incoming, Step, failed};
use crate::reservation::Reservation;
use crate::scratch::{CREATED, Created, FLOWS};
use crate::survey;

/// How long packets that waited may take to go.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// Removes a quarantine whose packets pass already, without losing one of them.
fn remove_quarantine(netns: &Path, hold: &Hold) -> anyhow::Result<()> {
    // Those that wait first, or later ones would overtake them.
    if !hold.wait_until_caught_up(RELEASE_LIMIT) {
        tracing::warn!("the container does not read its packets as fast as they come");
    }
    quarantine::open(netns)?;
    hold.wait_until_empty(RELEASE_LIMIT)?;
    Ok(quarantine::lift(netns)?)
}

/// Gives a container that runs here for good back to those who look after it: its service, and the
/// timer of its health checks. May be repeated.
pub(crate) async fn watch_over(container: &ContainerFacts) -> anyhow::Result<()> {
    if let Some(service) = &container.service {
        service::arrived(service, &container.id).await?;
    }
    if let Some(health) = &container.health {
        health::begin(&container.id, health).await?;
    }
    Ok(())
}

/// What a stream turned out to be, and warnings for the operator.
type Arrived = (StreamDigest, Vec<String>);

/// A migration under way at this host.
pub struct PodmanIncoming {
    record: MigrationRecord,
    journal: Journal,
    container: ContainerFacts,
    source: IpAddr,
    work: PathBuf,
    created: Vec<Created>,
    undo: Undo,
    cancel: CancellationToken,
    tunnel: Option<Arc<Tunnel>>,
    receiving: Option<Arc<Receiving>>,
    stream: Option<JoinHandle<anyhow::Result<Arrived>>>,
    staged: Option<Staged>,
    bundle: PathBuf,
    netns: Option<PathBuf>,
    hold: Option<Hold>,
    /// Those of the container's interfaces, as long as they have others.
    mtus: Option<Mtus>,
    /// Flows that pass this host already and wait to be turned.
    arriving: Vec<Arriving>,
    /// Batches of flows so far.
    batches: u32,
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
        let work = paths::work_dir(&record.migration);
        journal
            .write(&record)
            .context("cannot write the migration's record")?;
        let mut incoming = PodmanIncoming {
            container,
            source: source.ip().to_canonical(),
            work: work.clone(),
            created: Vec::new(),
            undo: Undo::default(),
            cancel,
            tunnel: None,
            receiving: None,
            stream: None,
            staged: None,
            bundle: PathBuf::new(),
            netns: None,
            hold: None,
            mtus: None,
            arriving: Vec::new(),
            batches: 0,
            record,
            journal,
            reservation,
        };
        std::fs::create_dir_all(&work)
            .with_context(|| format!("cannot create {}", work.display()))?;
        if image_missing {
            incoming.will_create(Created::Image(incoming.container.image_id.clone()))?;
        }
        Ok(incoming)
    }

    /// Registers how something is undone, here and on disk, before it is created.
    fn will_create(&mut self, created: Created) -> anyhow::Result<()> {
        self.created.push(created.clone());
        std::fs::write(self.work.join(CREATED), serde_json::to_vec(&self.created)?)
            .context("cannot write down what is created")?;
        self.undo.register(
            "image or volume",
            move || async move { created.remove().await },
        );
        Ok(())
    }

    fn places(&self, staged: &Staged) -> anyhow::Result<Places> {
        let volumes: BTreeMap<String, PathBuf> = self
            .container
            .volumes
            .iter()
            .map(|volume| {
                let directory = staged
                    .layout
                    .binds
                    .get(&volume.destination)
                    .with_context(|| format!("{} is not mounted", volume.destination))?;
                Ok((volume.destination.clone(), directory.clone()))
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Places {
            checkpoint: staged.checkpoint.clone(),
            rootfs: staged.layout.rootfs.clone(),
            shm: staged.layout.shm.clone(),
            volumes,
            log: staged.bundle.join(spec::LOG_NAME),
        })
    }

    fn tunnel(&self) -> anyhow::Result<Arc<Tunnel>> {
        self.tunnel.clone().context("there is no tunnel yet")
    }

    /// Ends what may be at work, then undoes what it has done.
    async fn undo_all(&mut self) -> Vec<String> {
        self.cancel.cancel();
        if let Some(stream) = self.stream.take() {
            let _ = stream.await;
        }
        if let Some(staged) = self.staged.take() {
            staged.cancel().await;
            let (runtime, id) = (self.container.runtime.clone(), self.container.id.clone());
            let ended = spawn_blocking(move || gate::end_processes(&runtime, &id)).await;
            if let Err(error) = ended.map_err(anyhow::Error::from).and_then(|r| Ok(r?)) {
                tracing::warn!("{} may have left processes: {error}", self.container.name);
            }
        }
        let leftovers = self.undo.unwind().await;
        self.hold = None;
        // What is left is written down there.
        if leftovers.is_empty()
            && let Err(error) = paths::remove_work_dir(&self.record.migration)
        {
            tracing::warn!("{}: {error}", self.work.display());
        }
        // The lease goes with the tunnel; its keeper takes it down if nothing else uses it.
        self.receiving = None;
        if let Some(tunnel) = self.tunnel.take().and_then(Arc::into_inner) {
            let _ = spawn_blocking(move || tunnel.teardown()).await;
        }
        leftovers
    }

    async fn try_stage(&mut self) -> anyhow::Result<Packets> {
        let reference = &self.container.image_name;
        if !podman::exists("image", reference).await? {
            let (id, name) = (self.container.image_id.clone(), reference.clone());
            self.will_create(Created::Tag(id.clone(), name.clone()))?;
            podman::tag_image(&id, &name).await?;
        }
        self.load_profiles().await?;
        for volume in self.container.volumes.clone() {
            self.will_create(Created::Volume(volume.name.clone()))?;
            podman::create_volume(&volume).await?;
        }
        let id = self.container.id.clone();
        let removed = id.clone();
        self.undo.register("container", move || async move {
            Ok(podman::remove_container(&removed).await?)
        });
        // Podman binds the ports again that it had published here before it moved away.
        let (lent, returned) = (id.clone(), id.clone());
        self.undo.register("forward", move || async move {
            let activate = move || published::activate(&Dirs::default(), &returned);
            Ok(spawn_blocking(activate).await??)
        });
        spawn_blocking(move || published::lend(&Dirs::default(), &lent)).await??;
        let (bridges, addresses) = (
            survey::bridges(&self.container).await,
            self.container.addresses(),
        );
        let staged = self.bring_to_gate().await?;
        // Netavark's rules are there only now.
        let look = move || forward::obstacles(Part::Staged(&bridges), &addresses, false);
        let obstacles = spawn_blocking(look).await.unwrap_or_default();
        let certain = obstacles.iter().filter(|obstacle| obstacle.certain);
        let why: Vec<_> = certain
            .map(|o| format!("{}: {}", o.found, o.advice))
            .collect();
        if !why.is_empty() {
            staged.cancel().await;
            anyhow::bail!(why.join("\n"));
        }
        self.bundle = staged.bundle.clone();
        self.netns = staged.layout.netns.clone();
        self.staged = Some(staged);
        // Nothing may reach the container or leave it until the commit.
        let Some(netns) = self.netns.clone() else {
            return Ok(Packets::Dropped);
        };
        self.hold = spawn_blocking(move || match quarantine::hold(&netns) {
            Ok(hold) => Ok(Some(hold)),
            Err(error) => {
                tracing::warn!("{error}: packets are dropped during the outage");
                quarantine::apply(&netns).map(|()| None)
            }
        })
        .await??;
        let netns = self.netns.clone().context("the container has a network")?;
        self.mtus = Some(spawn_blocking(move || segments::set_apart(&netns)).await??);
        Ok(match self.hold {
            Some(_) => Packets::Held,
            None => Packets::Dropped,
        })
    }

    /// Has Podman load its own profiles that confine the container: it does not by itself when it
    /// restores one.
    async fn load_profiles(&mut self) -> anyhow::Result<()> {
        let loaded = apparmor::loaded().context("cannot list the profiles of AppArmor")?;
        for profile in apparmor::to_load(&self.container.labels, &loaded) {
            let scratch = format!("live-migration-{}", self.record.migration);
            self.will_create(Created::Scratch(scratch.clone()))?;
            apparmor::load(&profile, &self.container.image_id, &scratch).await?;
        }
        Ok(())
    }

    /// Not interrupted when the migration is cancelled: a Podman that is killed on its way to the
    /// gate leaves a network namespace and mounts behind. It takes about a second, and closing the
    /// gate is clean.
    async fn bring_to_gate(&mut self) -> anyhow::Result<Staged> {
        let owner = match self.container.service.clone() {
            Some(service) => {
                self.prepare_service(&service).await?;
                Owner::Service(service.name)
            }
            None => Owner::Scope(format!("live-migration-{}", self.record.migration)),
        };
        let scratch = self.work.join("gate");
        std::fs::create_dir(&scratch)?;
        Ok(gate::stage(
            &owner,
            &self.work.join("skeleton.tar"),
            &self.container.runtime,
            &scratch,
        )
        .await?)
    }

    /// Puts the unit's files here that are missing. systemd reads them when the service's start is
    /// prepared.
    async fn prepare_service(&mut self, service: &ServiceFacts) -> anyhow::Result<()> {
        for file in service.files.iter().filter(|file| !file.path.exists()) {
            anyhow::ensure!(
                file.may_be_written(),
                "{} must not be put here",
                file.path.display()
            );
            self.will_create(Created::UnitFile(file.path.clone()))?;
            file.install()?;
        }
        self.will_create(Created::Service(Box::new(service.clone())))?;
        Ok(service::prepare_arrival(service).await?)
    }

    async fn let_packets_pass(&mut self) -> anyhow::Result<()> {
        match (&self.hold, self.netns.clone()) {
            (Some(hold), _) => {
                hold.release();
                Ok(())
            }
            (None, Some(netns)) => Ok(spawn_blocking(move || quarantine::lift(&netns)).await??),
            (None, None) => Ok(()),
        }
    }

    /// Registers how the flows are undone, here and on disk, before they are installed. Returns how
    /// many flows wait to be turned.
    async fn try_flows(&mut self, flows: Vec<MovedFlow>) -> anyhow::Result<usize> {
        let index = self.tunnel()?.index();
        self.batches += 1;
        let file = self.work.join(format!("{FLOWS}{}.json", self.batches));
        let (netns, subnets) = (self.netns.clone(), self.container.subnets());
        let (mut arriving, parting) = spawn_blocking(move || {
            let here = Here {
                addresses: Routes::open()?.own_addresses()?,
                untracked: match sysctl::bridges_are_tracked() {
                    true => Vec::new(),
                    false => subnets.clone(),
                },
            };
            let arriving = carry::arriving(&flows, index, &here)?;
            std::fs::write(&file, serde_json::to_vec(arriving.undo())?)
                .context("cannot write down how the flows are undone")?;
            let peers = flows::peers_in(&flows, &subnets);
            let parting = match netns {
                Some(netns) => Parting::of_arrival(&netns, &peers)?,
                None => Parting::default(),
            };
            anyhow::Ok((arriving, parting))
        })
        .await??;
        let installed = arriving.undo().clone();
        self.undo.register("flows", move || async move {
            Ok(spawn_blocking(move || installed.remove()).await??)
        });
        let arriving = spawn_blocking(move || {
            arriving.install()?;
            // Nothing of the container can be on its way yet.
            parting.make()?;
            anyhow::Ok(arriving)
        })
        .await??;
        self.arriving.push(arriving);
        Ok(self.arriving.iter().map(Arriving::waiting).sum())
    }

    /// Writes down the commit and lets the packets out.
    async fn try_commit(&mut self) -> anyhow::Result<()> {
        // On disk before the first packet can leave: after a crash in between, the container is
        // kept, and the source is told so when it asks.
        self.record.progress = Progress::Committed;
        self.journal.write(&self.record)?;
        self.let_packets_pass().await
    }

    /// Takes back a commit that failed. No packet has left, so it can be; but only on disk does it
    /// hold: until then the record may say `committed`, and what it says must stay true.
    fn take_back(&mut self) -> io::Result<()> {
        let under_way = MigrationRecord {
            progress: Progress::UnderWay,
            ..self.record.clone()
        };
        self.journal.write(&under_way)?;
        self.record = under_way;
        Ok(())
    }

    /// Lets the restored connections find out how much they may send at a time.
    async fn put_mtus_back(&mut self) -> anyhow::Result<()> {
        let (Some(netns), Some(mtus)) = (self.netns.clone(), self.mtus.take()) else {
            return Ok(());
        };
        Ok(spawn_blocking(move || segments::put_back(&netns, &mtus)).await??)
    }

    async fn try_restore(&mut self) -> Step<()> {
        let staged = self
            .staged
            .as_mut()
            .ok_or_else(|| Refused::new(RefusalCode::Protocol, "nothing is staged"))?;
        let images = staged.checkpoint.clone();
        spawn_blocking(move || timerfds::mend(&images))
            .await
            .map_err(failed)?
            .map_err(failed)?;
        let restored = staged
            .open(self.container.runtime_name(), &self.container.id)
            .await;
        let Err(error) = restored else {
            self.staged = None;
            return self.put_mtus_back().await.map_err(failed);
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
        let source = self.source;
        let unusable = self.tunnel.take().and_then(Arc::into_inner);
        let (tunnel, terms) = spawn_blocking(move || {
            if let Some(tunnel) = unusable {
                tunnel.teardown()?;
            }
            Tunnel::accept(&Dirs::default(), &offer, source, &keeper_command)
        })
        .await
        .map_err(failed)?
        .map_err(failed)?;
        self.tunnel = Some(Arc::new(tunnel));
        Ok(terms)
    }

    async fn prove_tunnel(&mut self) -> Step<(SocketAddr, Ticket)> {
        let tunnel = self.tunnel().map_err(failed)?;
        let receiving = spawn_blocking(move || {
            tunnel.prove(PROOF_LIMIT)?;
            anyhow::Ok(Receiving::bind(tunnel.local_address())?)
        })
        .await
        .map_err(failed)?
        .map_err(failed)?;
        let address = receiving.address().map_err(failed)?;
        let ticket = receiving.ticket().clone();
        self.receiving = Some(Arc::new(receiving));
        Ok((address, ticket))
    }

    async fn receive(&mut self, stream: u32, kind: StreamKind) -> Step<()> {
        let receiving = self
            .receiving
            .clone()
            .ok_or_else(|| Refused::new(RefusalCode::Protocol, "there is no tunnel yet"))?;
        let cancel = self.cancel.clone();
        let work = self.work.clone();
        let skeleton = work.join("skeleton.tar");
        let places = match &self.staged {
            Some(staged) => Some(self.places(staged).map_err(failed)?),
            None => None,
        };
        let from = SocketAddr::new(
            self.tunnel().map_err(failed)?.peer_address(),
            bulk::source_port(stream),
        );
        let here = receiving.address().map_err(failed)?;
        if let Err(error) = spawn_blocking(move || admit::tcp(from, here))
            .await
            .map_err(failed)?
        {
            tracing::debug!("{error}");
        }
        self.stream = Some(spawn_blocking(move || {
            let mut receiver = receiving.accept(stream, &cancel)?;
            let mut warnings = Vec::new();
            match kind {
                StreamKind::Image => image::load(&mut receiver, &work)?,
                StreamKind::Skeleton => {
                    let mut file = std::fs::File::create(&skeleton)?;
                    io::copy(&mut receiver, &mut file)?;
                }
                StreamKind::Files | StreamKind::Checkpoint => {
                    let places = places.context("nothing is staged")?;
                    warnings = cargo::unpack(&places, &mut receiver)?;
                }
            }
            Ok((receiver.finish()?, warnings))
        }));
        Ok(())
    }

    async fn stream_end(&mut self, digest: StreamDigest) -> Step<Vec<String>> {
        let stream = self
            .stream
            .take()
            .ok_or_else(|| Refused::new(RefusalCode::Protocol, "no stream is open"))?;
        let (received, warnings) = stream.await.map_err(failed)?.map_err(failed)?;
        if received != digest {
            return Err(Refused::new(
                RefusalCode::Corrupt,
                format!(
                    "a stream of {} bytes arrived as {} bytes or with other content",
                    digest.bytes, received.bytes
                ),
            ));
        }
        Ok(warnings)
    }

    async fn stage(&mut self) -> Step<Packets> {
        self.try_stage().await.map_err(failed)
    }

    async fn flows(&mut self, flows: Vec<MovedFlow>) -> Step<usize> {
        self.try_flows(flows).await.map_err(failed)
    }

    async fn turn(&mut self) -> Step<()> {
        let arriving = std::mem::take(&mut self.arriving);
        spawn_blocking(move || arriving.iter().try_for_each(Arriving::turn))
            .await
            .map_err(failed)?
            .map_err(failed)
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
        self.undo.disarm();
        self.reservation.decided();
        tracing::info!(migration = %self.record.migration, container = self.container.name, "committed");
        Ok(())
    }

    async fn settle(&mut self) {
        self.receiving = None;
        self.tunnel = None;
        if let (Some(netns), Some(hold)) = (self.netns.clone(), self.hold.take()) {
            let removed = spawn_blocking(move || remove_quarantine(&netns, &hold)).await;
            if let Err(error) = removed.map_err(anyhow::Error::from).and_then(|r| r) {
                // The scratch space stays: by that the next start of the server knows.
                tracing::error!("packets of {} may not pass: {error:#}", self.container.name);
                return;
            }
        }
        let addresses = self.container.addresses();
        let reunited = spawn_blocking(move || neighbours::reunite(&addresses)).await;
        if let Err(error) = reunited.map_err(anyhow::Error::from).and_then(|r| Ok(r?)) {
            tracing::error!(
                "neighbours of {} may not reach it: {error:#}",
                self.container.name
            );
            return;
        }
        let id = self.container.id.clone();
        let ended = spawn_blocking(move || published::remove(&Dirs::default(), &id)).await;
        if let Err(error) = ended.map_err(anyhow::Error::from).and_then(|r| Ok(r?)) {
            tracing::error!(
                "new connections to {} may go elsewhere: {error:#}",
                self.container.name
            );
            return;
        }
        if let Err(error) = watch_over(&self.container).await {
            tracing::error!("{} is not looked after yet: {error:#}", self.container.name);
            return;
        }
        if let Err(error) = paths::remove_work_dir(&self.record.migration) {
            tracing::warn!("{}: {error}", self.work.display());
        }
    }

    async fn roll_back(&mut self, why: &str) -> Vec<String> {
        if self.record.progress == Progress::Committed {
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
