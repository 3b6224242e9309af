//! A destination whose migrations are counted.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use common::container::ContainerFacts;
use common::host::HostFacts;
use common::net::flows::decide::MovedFlow;
use common::net::packets::queue::Count;
use common::net::tunnel::agreement::{Offer, Terms};
use common::preflight::Check;
use common::protocol::{Fate, MigrationId, MissingImage, Packets, StreamDigest, StreamKind};
use common::ticket::Ticket;
use tokio_util::sync::CancellationToken;
use trust::Peer;

use super::{End, Metrics};
use crate::destination::{Destination, Incoming, Step};

/// A destination and what is counted there.
pub struct Measured<D> {
    host: D,
    metrics: Metrics,
}

impl<D> Measured<D> {
    /// Counts what `host` does.
    pub fn new(host: D, metrics: Metrics) -> Self {
        Measured { host, metrics }
    }
}

impl<D: Destination> Destination for Measured<D> {
    type Incoming = MeasuredIncoming<D::Incoming>;

    async fn check(
        &self,
        container: &ContainerFacts,
        source: &HostFacts,
        forward_new: bool,
    ) -> Step<Vec<Check>> {
        self.host.check(container, source, forward_new).await
    }

    async fn begin(
        &self,
        migration: MigrationId,
        container: ContainerFacts,
        source: &HostFacts,
        peer: &Peer,
        address: SocketAddr,
        cancel: CancellationToken,
    ) -> Step<(Self::Incoming, Option<MissingImage>)> {
        let begin = self
            .host
            .begin(migration, container, source, peer, address, cancel);
        let begun = timed(&self.metrics, "begin", begin).await;
        let (incoming, missing) = begun.inspect_err(|_| self.metrics.ended(End::Refused))?;
        let measured = MeasuredIncoming {
            incoming,
            metrics: self.metrics.clone(),
            receiving: None,
            cut_off: None,
        };
        Ok((measured, missing))
    }

    async fn fate(&self, migration: &MigrationId, peer: &Peer) -> Step<Fate> {
        self.host.fate(migration, peer).await
    }

    fn under_way(&self) -> usize {
        self.host.under_way()
    }

    async fn introduce(&self, offer: Offer, address: IpAddr, peer: &Peer) -> Step<Terms> {
        self.host.introduce(offer, address, peer).await
    }
}

/// A migration that is counted.
pub struct MeasuredIncoming<I> {
    incoming: I,
    metrics: Metrics,
    /// The content that was announced last, except memory, which comes beside it.
    receiving: Option<StreamKind>,
    /// Since when packets for the container come here.
    cut_off: Option<Instant>,
}

impl<I: Incoming> Incoming for MeasuredIncoming<I> {
    async fn open_tunnel(&mut self, offer: Offer) -> Step<Terms> {
        timed(
            &self.metrics,
            "open_tunnel",
            self.incoming.open_tunnel(offer),
        )
        .await
    }

    async fn prove_tunnel(&mut self) -> Step<(SocketAddr, Ticket)> {
        timed(&self.metrics, "prove_tunnel", self.incoming.prove_tunnel()).await
    }

    async fn receive(&mut self, stream: u32, kind: StreamKind) -> Step<()> {
        if kind != StreamKind::Memory {
            self.receiving = Some(kind);
        }
        self.incoming.receive(stream, kind).await
    }

    async fn stream_end(&mut self, digest: StreamDigest) -> Step<Vec<String>> {
        let warnings = self.incoming.stream_end(digest).await?;
        if let Some(kind) = self.receiving.take() {
            self.metrics.received(kind, digest.bytes);
        }
        Ok(warnings)
    }

    async fn stage(&mut self) -> Step<Packets> {
        timed(&self.metrics, "stage", self.incoming.stage()).await
    }

    async fn memory_end(&mut self, digest: StreamDigest) -> Step<()> {
        self.incoming.memory_end(digest).await?;
        self.metrics.received(StreamKind::Memory, digest.bytes);
        Ok(())
    }

    async fn flows(&mut self, flows: Vec<MovedFlow>) -> Step<usize> {
        timed(&self.metrics, "flows", self.incoming.flows(flows)).await
    }

    async fn redirect(&mut self) -> Step<()> {
        self.cut_off.get_or_insert_with(Instant::now);
        timed(&self.metrics, "redirect", self.incoming.redirect()).await
    }

    async fn restore(&mut self) -> Step<Vec<String>> {
        timed(&self.metrics, "restore", self.incoming.restore()).await
    }

    async fn commit(&mut self) -> Step<()> {
        timed(&self.metrics, "commit", self.incoming.commit()).await?;
        if let Some(cut_off) = self.cut_off {
            self.metrics.outage(cut_off.elapsed());
        }
        self.metrics.ended(End::Committed);
        Ok(())
    }

    async fn finish_outage(&mut self) {
        self.incoming.finish_outage().await;
        if let Some(count) = self.incoming.packets() {
            self.metrics.packets(count);
        }
    }

    fn packets(&self) -> Option<Count> {
        self.incoming.packets()
    }

    async fn roll_back(&mut self, why: &str) -> Vec<String> {
        let leftovers = self.incoming.roll_back(why).await;
        self.metrics.ended(match leftovers.is_empty() {
            true => End::RolledBack,
            false => End::LeftOver,
        });
        leftovers
    }
}

async fn timed<T>(
    metrics: &Metrics,
    phase: &'static str,
    work: impl Future<Output = Step<T>>,
) -> Step<T> {
    let begun = Instant::now();
    let done = work.await;
    metrics.phase(phase, begun.elapsed());
    done
}
