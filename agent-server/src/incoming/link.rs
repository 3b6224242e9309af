//! What joins this host to the source: the tunnel, and the bulk streams that come through it.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use common::bulk::{self, Receiver, Receiving};
use common::container::files::payload::{self, Kind};
use common::container::files::places::{Places, Volumes};
use common::container::podman::image;
use common::durable;
use common::multicall::keeper_command;
use common::net::state::{Claim, Dirs};
use common::net::tunnel::agreement::{Offer, Terms};
use common::net::tunnel::expect;
use common::net::tunnel::{PROOF_LIMIT, Tunnel};
use common::protocol::{RefusalCode, Refused, StreamDigest};
use common::ticket::Ticket;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use trust::Fingerprint;

use crate::destination::{Step, failed};

/// What a stream turned out to contain, and warnings for the operator.
type Arrived = (StreamDigest, Vec<String>);

/// What a stream brings, and where that goes.
pub(super) enum Content {
    /// An image.
    Image {
        /// For scratch files.
        work: PathBuf,
        /// How long it may be.
        most_bytes: u64,
    },
    /// A file.
    File(PathBuf),
    /// Files of volumes.
    Volumes(Volumes),
    /// Files of a running container.
    Files(Places),
    /// A frozen container.
    Checkpoint(Places),
}

impl Content {
    /// Puts it in place, and returns warnings for the operator. Blocks.
    fn take(
        self,
        receiver: &mut Receiver,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Vec<String>> {
        match self {
            Content::Image { work, most_bytes } => {
                image::load(receiver, most_bytes, &work, cancel)?;
            }
            Content::File(path) => {
                io::copy(receiver, &mut File::create(&path)?)?;
            }
            // What comes while the container runs on is put on disk at once: then little is left for the
            // time after the commit.
            Content::Volumes(volumes) => {
                let warnings = payload::unpack_volumes(&volumes, receiver)?;
                durable::sync_file_systems(volumes.values().map(PathBuf::as_path))?;
                return Ok(warnings);
            }
            Content::Files(places) => {
                let warnings = payload::unpack(&places, Kind::Files, receiver)?;
                places.sync()?;
                return Ok(warnings);
            }
            Content::Checkpoint(places) => {
                return Ok(payload::unpack(&places, Kind::Checkpoint, receiver)?);
            }
        }
        Ok(Vec::new())
    }
}

/// The tunnel to the source and what comes through it.
pub(super) struct Link {
    source: IpAddr,
    peer: Fingerprint,
    cancel: CancellationToken,
    tunnel: Option<Arc<Tunnel>>,
    receiving: Option<Arc<Receiving>>,
    stream: Option<JoinHandle<anyhow::Result<Arrived>>>,
}

impl Link {
    /// A link to the host at `source`; `cancel` ends a stream.
    pub(super) fn new(source: IpAddr, peer: Fingerprint, cancel: CancellationToken) -> Self {
        Link {
            source,
            peer,
            cancel,
            tunnel: None,
            receiving: None,
            stream: None,
        }
    }

    /// The tunnel, if there is one yet.
    pub(super) fn tunnel(&self) -> anyhow::Result<Arc<Tunnel>> {
        self.tunnel.clone().context("there is no tunnel yet")
    }

    /// Chooses a tunnel, in place of any that did not work, and brings up this end of it.
    pub(super) async fn open_tunnel(&mut self, offer: Offer) -> Step<Terms> {
        let source = self.source;
        let claim = Claim::Client(self.peer);
        let unusable = self.tunnel.take().and_then(Arc::into_inner);
        let (tunnel, terms) = spawn_blocking(move || {
            if let Some(tunnel) = unusable {
                tunnel.teardown()?;
            }
            Tunnel::accept(&Dirs::default(), &offer, source, &claim, &keeper_command)
        })
        .await
        .map_err(failed)?
        .map_err(failed)?;
        self.tunnel = Some(Arc::new(tunnel));
        Ok(terms)
    }

    /// Proves that the tunnel works and opens it for bulk streams.
    pub(super) async fn prove_tunnel(&mut self) -> Step<(SocketAddr, Ticket)> {
        let tunnel = self.tunnel().map_err(failed)?;
        let receiving = spawn_blocking(move || {
            tunnel.prove(PROOF_LIMIT)?;
            anyhow::Ok(Receiving::bind(
                tunnel.local_address(),
                &tunnel.interface(),
            )?)
        })
        .await
        .map_err(failed)?
        .map_err(failed)?;
        let address = receiving.address().map_err(failed)?;
        let ticket = receiving.ticket().clone();
        self.receiving = Some(Arc::new(receiving));
        Ok((address, ticket))
    }

    /// Gets ready for the connection of a bulk stream, which the result waits for.
    pub(super) async fn expect(
        &self,
        stream: u32,
    ) -> Step<impl FnOnce() -> io::Result<Receiver> + Send + 'static> {
        let receiving = self
            .receiving
            .clone()
            .ok_or_else(|| Refused::new(RefusalCode::Protocol, "there is no tunnel yet"))?;
        let cancel = self.cancel.clone();
        let from = SocketAddr::new(
            self.tunnel().map_err(failed)?.peer_address(),
            bulk::source_port(stream),
        );
        let here = receiving.address().map_err(failed)?;
        if let Err(error) = spawn_blocking(move || expect::tcp(from, here))
            .await
            .map_err(failed)?
        {
            tracing::debug!("{error}");
        }
        Ok(move || receiving.accept(stream, &cancel))
    }

    /// Gets ready for a bulk stream, whose content goes where `content` says.
    pub(super) async fn receive(&mut self, stream: u32, content: Content) -> Step<()> {
        let accept = self.expect(stream).await?;
        let cancel = self.cancel.clone();
        self.stream = Some(spawn_blocking(move || {
            let mut receiver = accept()?;
            let warnings = content.take(&mut receiver, &cancel)?;
            Ok((receiver.finish()?, warnings))
        }));
        Ok(())
    }

    /// Waits for the stream's end and compares it with what was sent. Returns warnings for the operator.
    pub(super) async fn stream_end(&mut self, digest: StreamDigest) -> Step<Vec<String>> {
        let stream = self
            .stream
            .take()
            .ok_or_else(|| Refused::new(RefusalCode::Protocol, "no stream is open"))?;
        let (received, warnings) = stream.await.map_err(failed)?.map_err(failed)?;
        compare(digest, received)?;
        Ok(warnings)
    }

    /// Waits until a cancelled stream has ended.
    pub(super) async fn end_stream(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = stream.await;
        }
    }

    /// Stops using the tunnel: it stays for the flows that go through it.
    pub(super) fn leave(&mut self) {
        self.receiving = None;
        self.tunnel = None;
    }

    /// Gives up the tunnel.
    pub(super) async fn close(&mut self) {
        // The lease goes with the tunnel; its keeper takes it down if nothing else uses it.
        self.receiving = None;
        if let Some(tunnel) = self.tunnel.take().and_then(Arc::into_inner) {
            let _ = spawn_blocking(move || tunnel.teardown()).await;
        }
    }
}

/// Whether what was sent has arrived.
pub(super) fn compare(sent: StreamDigest, received: StreamDigest) -> Step<()> {
    if received == sent {
        return Ok(());
    }
    Err(Refused::new(
        RefusalCode::Corrupt,
        format!(
            "a stream of {} bytes arrived as {} bytes or with other content",
            sent.bytes, received.bytes
        ),
    ))
}
