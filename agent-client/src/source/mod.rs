//! What a migration does to the container and the network of this host.

mod data;
mod flows;
mod memory;
mod standstill;

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context;
use common::bulk::Sender;
use common::command;
use common::container::checkpoint::dump;
use common::container::checkpoint::freezer::Freezer;
use common::container::facts::VolumeFacts;
use common::container::files::payload::{self, Frozen, Sent};
use common::container::files::places::Places;
use common::container::podman;
use common::container::podman::image;
use common::container::podman::inspect::Local;
use common::container::restore::skeleton;
use common::container::service::Parted;
use common::container::sockets::settings::Settings;
use common::container::{ContainerFacts, health, service};
use common::durable;
use common::net::flows::apply;
use common::net::mark::Index;
use common::protocol::{MissingImage, StreamDigest};
use common::systemd::ServiceName;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub(crate) use self::data::Data;
use self::data::{buffered, finished};
pub(crate) use self::flows::Flows;
pub(crate) use self::memory::{Ahead, Complete};
use self::standstill::Standstill;

/// Pause between looks whether CRIU has written more.
const LOOK: Duration = Duration::from_millis(2);

/// What is sent of the frozen container.
pub(crate) type Payload = Frozen<BufWriter<Sender>>;

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

/// Which files of a container.
#[derive(Clone, Copy)]
pub(crate) enum Which {
    /// Those of volumes, for which the destination needs no container.
    Volumes,
    /// All of them.
    All,
}

/// The container that moves, and everything of it on this host.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) facts: ContainerFacts,
    places: Places,
    /// The overlay's upper directory.
    upper: PathBuf,
    standstill: Standstill,
    runtime: PathBuf,
    /// CRIU's version.
    criu: String,
    work: PathBuf,
}

impl Source {
    /// Prepares for the container `facts`, with `work` for scratch files.
    pub(crate) fn new(
        facts: ContainerFacts,
        local: Local,
        criu: String,
        work: PathBuf,
    ) -> anyhow::Result<Self> {
        let places = Places::read(
            &local.bundle,
            work.join("images"),
            &facts.volumes,
            &facts.binds,
        )?;
        let standstill = Standstill {
            pid: local.pid,
            freezer: Freezer::of_running(&facts.runtime, &facts.id, &local.cgroup)?,
            netns: places.netns.clone(),
        };
        Ok(Source {
            runtime: command::find(&facts.runtime)
                .with_context(|| format!("{} is not installed", facts.runtime))?,
            upper: local.upper,
            facts,
            places,
            standstill,
            criu,
            work,
        })
    }

    /// Has Podman write the container's configuration. Changes nothing here but scratch files.
    pub(crate) async fn write_skeleton(&self) -> anyhow::Result<()> {
        let volumes: Vec<_> = self.leaving_volumes().map(|v| &v.name).collect();
        // For a removal that is cut short: once the container is gone, only this file says which they are.
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
            &self.facts.binds,
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
            let mut sender = buffered(data.open(stream, cancel.clone())?);
            image::save(&image, &missing.layers_present, &mut sender, &cancel)?;
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

    /// Keeps the container's service and health checks from reacting to what happens to it. Undone by
    /// [`Source::release`].
    pub(crate) async fn hold(&self) -> anyhow::Result<()> {
        if let Some(facts) = &self.facts.service {
            service::hold(facts, &self.work).await?;
        }
        if let Some(facts) = &self.facts.health {
            health::hold(&self.facts.id, facts, &self.work).await?;
        }
        Ok(())
    }

    /// From now on a boot of this host does not start the container's service again. Undone by
    /// [`Source::release`].
    pub(crate) async fn keep_service_down(&self) -> anyhow::Result<()> {
        Ok(service::keep_down(&self.work).await?)
    }

    /// Undoes [`Source::hold`] and [`Source::keep_service_down`]. Harmless if the container was not held.
    pub(crate) async fn release(&self) -> anyhow::Result<()> {
        health::resume(&self.facts.id, &self.work).await?;
        Ok(service::release(&self.work).await?)
    }

    /// Does the part of [`Source::freeze`] that can be done before it. Undone by [`Source::thaw`].
    pub(crate) async fn prepare_freeze(&self) -> anyhow::Result<()> {
        let standstill = self.standstill.clone();
        spawn_blocking(move || standstill.prepare()).await?
    }

    /// Waits, while the container runs on, for connections that cannot move: those that wait to be
    /// accepted, and those that it has closed and that have data left to send.
    pub(crate) async fn wait_ready(&self) -> anyhow::Result<()> {
        let standstill = self.standstill.clone();
        spawn_blocking(move || standstill.wait_ready()).await?
    }

    /// Gives the container a moment to read what it has, stops it, and keeps all packets from it.
    /// Its flows lead to the destination by now. Returns what is lost by that, in words. Undone by
    /// [`Source::thaw`].
    pub(crate) async fn freeze(&self) -> anyhow::Result<Vec<String>> {
        let standstill = self.standstill.clone();
        spawn_blocking(move || standstill.freeze()).await?
    }

    /// Fails if the frozen container has changed a bind mount that the destination keeps because its content was
    /// the same.
    pub(crate) fn kept_is_still(&self) -> anyhow::Result<()> {
        for bind in &self.facts.binds {
            anyhow::ensure!(
                !bind.has_changed(),
                "{0} has changed since it was compared with the destination's: say `--bind {0}=send`",
                bind.source
            );
        }
        Ok(())
    }

    /// Lets the container run on, with its network. Harmless if it was never stopped.
    pub(crate) async fn thaw(&self) -> anyhow::Result<()> {
        let standstill = self.standstill.clone();
        spawn_blocking(move || standstill.thaw()).await?
    }

    /// Whether the container stands still.
    pub(crate) fn frozen(&self) -> anyhow::Result<bool> {
        Ok(self.standstill.freezer.frozen()?)
    }

    /// Writes CRIU's images of the frozen container, and beside them what CRIU does not keep of its sockets; a
    /// `lazy` dump leaves the memory out that went ahead. The outer error is that of the sockets.
    pub(crate) async fn dump(
        &self,
        lazy: bool,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Result<(), dump::DumpError>> {
        let lazy = lazy.then_some(self.criu.as_str());
        let (runtime, id, images) = (&self.runtime, &self.facts.id, &self.places.checkpoint);
        let (standstill, beside) = (self.standstill.clone(), images.clone());
        let settings = spawn_blocking(move || {
            let processes = standstill.freezer.processes();
            Settings::read(&processes, standstill.pid)?.write(&beside)
        });
        let (dumped, written) = tokio::join!(
            dump::dump(runtime, id, images, &self.work, lazy, cancel),
            settings
        );
        if dumped.is_ok() {
            written??;
        }
        Ok(dumped)
    }

    /// Its volumes that nobody else has.
    fn leaving_volumes(&self) -> impl Iterator<Item = &VolumeFacts> {
        let volumes = self.facts.volumes.iter();
        volumes.filter(|volume| volume.shared_with.is_empty())
    }

    /// Whether it has volumes.
    pub(crate) fn has_volumes(&self) -> bool {
        !self.places.volumes.is_empty()
    }

    /// Sends these files of the running container, or what has changed of them since `sent`.
    pub(crate) async fn send_files(
        &self,
        which: Which,
        stream: u32,
        data: &Data,
        sent: Option<Sent>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<(StreamDigest, Sent)> {
        let (places, upper) = (self.places.clone(), self.upper.clone());
        let (data, cancel) = (data.clone(), cancel.clone());
        spawn_blocking(move || {
            let (sender, sent) = (buffered(data.open(stream, cancel)?), sent.as_ref());
            let (sender, sent) = match which {
                Which::Volumes => payload::pack_volumes(&places.volumes, sent, sender)?,
                Which::All => payload::pack_files(&places, &upper, sent, sender)?,
            };
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
        let (places, upper) = (self.places.clone(), self.upper.clone());
        spawn_blocking(move || finished(payload.finish(&places, &upper, Some(&sent))?)).await?
    }

    /// The container's flows as they are now, without those that were there `earlier`.
    pub(crate) async fn flows(&self, earlier: Option<&Flows>) -> anyhow::Result<Flows> {
        Flows::find(&self.facts, self.standstill.pid, earlier).await
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
        for volume in self.leaving_volumes() {
            podman::objects::remove_volume(&volume.name).await?;
        }
        // Otherwise a host that loses power soon would have its copy back, and perhaps start it.
        let storage = self.upper.ancestors().find(|path| path.exists());
        let storage = storage.map(Path::to_owned);
        let sync = move || durable::sync_file_systems(storage.iter().map(PathBuf::as_path));
        if let Err(error) = spawn_blocking(sync).await? {
            tracing::warn!("the removal is not on disk yet: {error}");
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
