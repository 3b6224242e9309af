//! What a migration does to the container and the network of this host.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::io::BufWriter;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};

use anyhow::Context;
use common::bulk::{self, Sender};
use common::command;
use common::container::checkpoint::freezer::Freezer;
use common::container::checkpoint::{drain, dump, repair};
use common::container::files::payload::{self, Frozen, Sent};
use common::container::files::places::Places;
use common::container::podman;
use common::container::podman::image;
use common::container::podman::inspect::Local;
use common::container::restore::skeleton;
use common::container::service::Parted;
use common::container::{ContainerFacts, health, service};
use common::durable;
use common::net::flows::apply::{self, Departing};
use common::net::flows::decide::MovedFlow;
use common::net::flows::neighbours::{self, Parting};
use common::net::mark::Index;
use common::net::packets::quarantine;
use common::net::rules::guard::guard;
use common::protocol::{MissingImage, StreamDigest};
use common::systemd::ServiceName;
use common::ticket::Ticket;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether CRIU has written more.
const LOOK: std::time::Duration = std::time::Duration::from_millis(2);

/// What is sent of the frozen container.
pub(crate) type Payload = Frozen<BufWriter<Sender>>;

/// How often the container is given time to read what came in while it was being frozen.
const MOST_DRAINS: usize = 3;

/// File in the scratch space that lists the volumes that go with the container.
const VOLUMES: &str = "volumes.json";

/// Removes the volumes of a container that was removed, as the scratch space says.
pub(crate) async fn remove_volumes(work: &Path) -> anyhow::Result<()> {
    let Ok(bytes) = std::fs::read(work.join(VOLUMES)) else {
        return Ok(());
    };
    for volume in serde_json::from_slice::<Vec<String>>(&bytes)? {
        podman::objects::remove_volume(&volume).await?;
    }
    Ok(())
}

/// The container that moves, with everything of it that is touched here.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) facts: ContainerFacts,
    local: Local,
    places: Places,
    freezer: Freezer,
    runtime: PathBuf,
    work: PathBuf,
}

/// The way for bulk streams.
#[derive(Clone)]
pub(crate) struct Data {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) ticket: Ticket,
    pub(crate) sent: bulk::ByteCount,
}

impl Source {
    /// Prepares for `container`, with `work` for scratch files.
    pub(crate) fn new(facts: ContainerFacts, local: Local, work: PathBuf) -> anyhow::Result<Self> {
        Ok(Source {
            places: Places::read(&local.bundle, work.join("images"), &facts.volumes)?,
            freezer: Freezer::of_running(&facts.runtime, &facts.id, &local.cgroup)?,
            runtime: command::find(&facts.runtime)
                .with_context(|| format!("{} is not installed", facts.runtime))?,
            facts,
            local,
            work,
        })
    }

    /// Has Podman write the container's configuration. Changes nothing here but scratch files.
    pub(crate) async fn write_skeleton(&self) -> anyhow::Result<()> {
        let volumes: Vec<_> = self.facts.volumes.iter().map(|v| &v.name).collect();
        // For a removal that is cut short: nobody else knows them once the container is gone.
        durable::replace(
            &self.work.join(VOLUMES),
            0o644,
            &serde_json::to_vec(&volumes)?,
        )
        .context("cannot write down which volumes go with the container")?;
        skeleton::write(
            &self.facts.id,
            &self.facts.runtime,
            &self.runtime,
            &self.work,
            &self.skeleton(),
        )
        .await
        .context("cannot write down the container's configuration")
    }

    /// Sends what the destination lacks of the image.
    pub(crate) async fn send_image(
        &self,
        stream: u32,
        data: &Data,
        missing: MissingImage,
        cancel: CancellationToken,
    ) -> anyhow::Result<StreamDigest> {
        let image = self.facts.image_id.clone();
        let data = data.clone();
        spawn_blocking(move || {
            let mut sender = buffered(data.open(stream, cancel)?);
            image::save(&image, &missing.layers_present, &mut sender)?;
            finished(sender)
        })
        .await?
    }

    /// Sends the skeleton once it is written.
    pub(crate) async fn send_skeleton(
        &self,
        stream: u32,
        data: &Data,
        cancel: CancellationToken,
    ) -> anyhow::Result<StreamDigest> {
        let archive = self.skeleton();
        let data = data.clone();
        spawn_blocking(move || {
            let mut sender = data.open(stream, cancel)?;
            std::io::copy(&mut std::fs::File::open(&archive)?, &mut sender)?;
            Ok(sender.finish()?)
        })
        .await?
    }

    /// Keeps those who look after the container from reacting to what happens to it: its service and its
    /// health checks. Undone by [`Source::release`].
    pub(crate) async fn hold(&self) -> anyhow::Result<()> {
        if let Some(facts) = &self.facts.service {
            service::hold(facts, &self.work).await?;
        }
        if let Some(facts) = &self.facts.health {
            health::hold(&self.facts.id, facts, &self.work).await?;
        }
        Ok(())
    }

    /// From now on a boot of this host does not bring the container's service back. Undone by
    /// [`Source::release`].
    pub(crate) async fn keep_service_down(&self) -> anyhow::Result<()> {
        Ok(service::keep_down(&self.work).await?)
    }

    /// Gives the container back to them. Harmless if it was not held.
    pub(crate) async fn release(&self) -> anyhow::Result<()> {
        health::resume(&self.facts.id, &self.work).await?;
        Ok(service::release(&self.work).await?)
    }

    /// Does of [`Source::freeze`] what can be done before. Undone by [`Source::thaw`].
    pub(crate) async fn prepare_freeze(&self) -> anyhow::Result<()> {
        let Some(netns) = self.places.netns.clone() else {
            return Ok(());
        };
        Ok(spawn_blocking(move || quarantine::prepare(&netns)).await??)
    }

    /// Waits while the container runs on until no connection waits to be accepted: those cannot
    /// move.
    pub(crate) async fn wait_accepted(&self) -> anyhow::Result<()> {
        let pid = self.local.pid;
        let left = spawn_blocking(move || drain::wait_accepted(pid)).await?;
        anyhow::ensure!(left == 0, unaccepted(left));
        Ok(())
    }

    /// Gives the container a moment to read what it has, stops it, and keeps all packets from it.
    /// Its flows lead to the destination by now. Undone by [`Source::thaw`].
    pub(crate) async fn freeze(&self) -> anyhow::Result<()> {
        let source = self.clone();
        spawn_blocking(move || {
            let pid = source.local.pid;
            for left in (0..MOST_DRAINS).rev() {
                let drained = drain::drain(pid);
                source.freezer.freeze()?;
                if drain::waiting(pid) == 0 {
                    break;
                }
                if !drained || left == 0 {
                    let unaccepted_left = drain::unaccepted(pid);
                    anyhow::ensure!(unaccepted_left == 0, unaccepted(unaccepted_left));
                    tracing::warn!(
                        "the container did not read all that was waiting for it; datagrams may be \
                         lost"
                    );
                    break;
                }
                // Some came between the look and the freeze: they were on their way already.
                source.freezer.thaw()?;
            }
            // After the freeze, so that what the container sent until then has left, and before
            // the dump, so that its sockets stay as they are dumped.
            if let Some(netns) = &source.places.netns {
                quarantine::wake(netns)?;
            }
            Ok(())
        })
        .await?
    }

    /// Lets the container run on, with its network. Harmless if it was never stopped.
    pub(crate) async fn thaw(&self) -> anyhow::Result<()> {
        let source = self.clone();
        spawn_blocking(move || {
            if !dump::leave(&source.freezer) {
                tracing::warn!("a process still traces the container: it is thawed all the same");
            }
            // While nothing can use them.
            match repair::end(&source.freezer.processes()) {
                Ok(0) => {}
                Ok(count) => tracing::info!("{count} connections were left in repair mode by CRIU"),
                Err(error) => tracing::warn!("connections may be in repair mode still: {error}"),
            }
            // Thawed first: packets that came in between would find nobody to read them.
            source.freezer.thaw()?;
            if let Some(netns) = &source.places.netns {
                quarantine::lift(netns)?;
            }
            Ok(())
        })
        .await?
    }

    /// Whether the container stands still.
    pub(crate) fn frozen(&self) -> anyhow::Result<bool> {
        Ok(self.freezer.frozen()?)
    }

    /// Writes CRIU's images of the frozen container.
    pub(crate) async fn dump(&self, cancel: &CancellationToken) -> Result<(), dump::DumpError> {
        let (runtime, id) = (&self.runtime, &self.facts.id);
        dump::dump(runtime, id, &self.places.checkpoint, &self.work, cancel).await
    }

    /// Sends the files of the running container, or what has changed of them since `sent`.
    pub(crate) async fn send_files(
        &self,
        stream: u32,
        data: &Data,
        sent: Option<Sent>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<(StreamDigest, Sent)> {
        let (places, upper) = (self.places.clone(), self.local.upper.clone());
        let (data, cancel) = (data.clone(), cancel.clone());
        spawn_blocking(move || {
            let sender = buffered(data.open(stream, cancel)?);
            let (sender, sent) = payload::pack_files(&places, &upper, sent.as_ref(), sender)?;
            Ok((finished(sender)?, sent))
        })
        .await?
    }

    /// Sends images over an open stream as CRIU writes them, until `dumping` ends.
    pub(crate) async fn ship_dump(
        &self,
        sender: Sender,
        dumping: mpsc::Receiver<Infallible>,
    ) -> anyhow::Result<Payload> {
        let images = self.places.checkpoint.clone();
        spawn_blocking(move || {
            std::fs::create_dir_all(&images)?;
            let mut payload = Frozen::new(buffered(sender), &images);
            while dumping.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                payload.follow_dump()?;
            }
            Ok(payload)
        })
        .await?
    }

    /// Sends the rest of the images after the dump, and what has changed of the files since `sent`.
    pub(crate) async fn ship(&self, payload: Payload, sent: Sent) -> anyhow::Result<StreamDigest> {
        let (places, upper) = (self.places.clone(), self.local.upper.clone());
        spawn_blocking(move || finished(payload.finish(&places, &upper, Some(&sent))?)).await?
    }

    /// The container's flows as they are now, without those that were there `earlier`.
    pub(crate) async fn flows(&self, earlier: Option<&Flows>) -> anyhow::Result<Flows> {
        let addresses = self.facts.addresses();
        let subnets = self.facts.subnets();
        let earlier = earlier.map(|flows| flows.departing.clone());
        let pid = self.local.pid;
        spawn_blocking(move || {
            let untracked = neighbours::untracked(pid, &addresses, &subnets)
                .context("cannot look for neighbours")?;
            let own = addresses.iter().copied().collect();
            let mut departing = apply::departing(&own, untracked)?;
            if let Some(earlier) = earlier {
                departing = departing.since(&earlier);
            }
            let neighbours = departing.peers_in(&subnets);
            let parting =
                Parting::find(&addresses, &neighbours).context("cannot look for neighbours")?;
            Ok(Flows {
                departing: Arc::new(departing),
                neighbours: Arc::new(neighbours),
                parting: Arc::new(parting),
                addresses,
            })
        })
        .await?
    }

    /// After the old container's removal: how many flows lead to it still.
    pub(crate) async fn left_behind(&self, tunnel: Index) -> anyhow::Result<usize> {
        let addresses: HashSet<_> = self.facts.addresses().into_iter().collect();
        Ok(spawn_blocking(move || apply::left_behind(&addresses, tunnel)).await??)
    }

    /// Removes the container and the volumes that went with it. Not undone; cut short, it is
    /// finished by [`remove_volumes`].
    pub(crate) async fn remove(&self) -> anyhow::Result<()> {
        podman::objects::remove_container(&self.facts.id).await?;
        for volume in &self.facts.volumes {
            podman::objects::remove_volume(&volume.name).await?;
        }
        Ok(())
    }

    /// Ends its service, if it was held, once it is removed. Returns that and what keeps it from
    /// coming back.
    pub(crate) async fn part_from_service(&self) -> anyhow::Result<Option<(ServiceName, Parted)>> {
        Ok(service::part(&self.work).await?)
    }

    fn skeleton(&self) -> PathBuf {
        self.work.join("skeleton.tar")
    }
}

fn unaccepted(count: u64) -> String {
    format!(
        "{count} connections wait for the container to accept them, and would be reset by a move: \
         try again when it accepts faster"
    )
}

fn buffered(sender: Sender) -> BufWriter<Sender> {
    BufWriter::with_capacity(256 << 10, sender)
}

fn finished(sender: BufWriter<Sender>) -> anyhow::Result<StreamDigest> {
    Ok(sender.into_inner().map_err(|e| e.into_error())?.finish()?)
}

impl Data {
    /// Opens stream number `stream`. Blocks.
    pub(crate) fn open(&self, stream: u32, cancel: CancellationToken) -> std::io::Result<Sender> {
        Sender::connect(
            self.address,
            &self.ticket,
            stream,
            self.sent.clone(),
            cancel,
        )
    }
}

/// Flows of the container in this host's conntrack table.
#[derive(Clone)]
pub(crate) struct Flows {
    departing: Arc<Departing>,
    /// Peers within the container's networks, and what those need that are containers here.
    neighbours: Arc<HashSet<IpAddr>>,
    parting: Arc<Parting>,
    /// The container's.
    addresses: Vec<IpAddr>,
}

impl Flows {
    /// What the destination is told.
    pub(crate) fn moved(&self) -> Vec<MovedFlow> {
        self.departing.flows().cloned().collect()
    }

    /// Makes them ready to be turned into the tunnel. They go on as before.
    pub(crate) async fn prepare(&self, tunnel: Index) -> anyhow::Result<()> {
        let departing = self.departing.clone();
        spawn_blocking(move || {
            departing.disable_window_checks()?;
            let guarded = departing.to_recreate();
            if guarded.is_empty() {
                return Ok(());
            }
            guard(tunnel, &guarded)?;
            departing.recreate()?;
            Ok(guard(tunnel, &[])?)
        })
        .await?
    }

    /// Turns them into the tunnel. Undone by [`Flows::restore`].
    pub(crate) async fn redirect(&self, tunnel: Index) -> anyhow::Result<()> {
        let flows = self.clone();
        spawn_blocking(move || {
            neighbours::keep_addresses(&flows.neighbours, tunnel)?;
            flows.departing.redirect(tunnel)?;
            Ok(flows.parting.make()?)
        })
        .await?
    }

    /// Gives those of datagrams back the marks they had. Undone by [`Flows::redirect`]. Returns how many
    /// there are.
    pub(crate) async fn hold_datagrams_back(&self) -> anyhow::Result<usize> {
        let departing = self.departing.clone();
        Ok(spawn_blocking(move || departing.restore_datagrams()).await??)
    }

    /// Gives them back the marks they had.
    pub(crate) async fn restore(&self) -> anyhow::Result<()> {
        let (departing, addresses) = (self.departing.clone(), self.addresses.clone());
        spawn_blocking(move || {
            departing.restore()?;
            Ok(neighbours::forget_parting(&addresses)?)
        })
        .await?
    }

    /// After the old container's removal: puts back what went with it, deletes what is not needed.
    pub(crate) async fn reconcile(&self, tunnel: Index) -> anyhow::Result<()> {
        let departing = self.departing.clone();
        spawn_blocking(move || {
            let again = departing.reconcile(tunnel)?;
            if again > 0 {
                tracing::info!(
                    again,
                    "flows that went with the old container were put back"
                );
            }
            Ok(())
        })
        .await?
    }

    /// See [`Departing::passing`].
    pub(crate) fn passing(&self, tunnel: Index) -> BTreeMap<Index, Vec<MovedFlow>> {
        self.departing.passing(tunnel)
    }

    /// See [`Departing::delete_faded`].
    pub(crate) async fn delete_faded(&self, through: Index) -> anyhow::Result<()> {
        let departing = self.departing.clone();
        Ok(spawn_blocking(move || departing.delete_faded(through)).await??)
    }

    /// See [`Departing::expire_soon`].
    pub(crate) async fn expire_soon(&self, through: Index) -> anyhow::Result<()> {
        let departing = self.departing.clone();
        Ok(spawn_blocking(move || departing.expire_soon(through)).await??)
    }
}
