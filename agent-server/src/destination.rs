//! What a session asks of the host it runs on.
//!
//! The real one is [`crate::podman_host::PodmanHost`]. The seam is here, above all kernel objects,
//! so that the protocol can be tested end to end over an in-memory pipe.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};

use common::container::ContainerFacts;
use common::host::HostFacts;
use common::net::flows::decide::MovedFlow;
use common::net::packets::queue::Count;
use common::net::tunnel::agreement::{Offer, Terms};
use common::preflight::Check;
use common::protocol::{
    Fate, MigrationId, MissingImage, Packets, RefusalCode, Refused, StreamDigest, StreamKind,
};
use common::ticket::Ticket;
use tokio_util::sync::CancellationToken;
use trust::Peer;

/// Result of a step; the source gets to read the refusal.
pub type Step<T> = Result<T, Refused>;

/// Any error of a step, as the source gets to read it.
pub(crate) fn failed(error: impl Into<anyhow::Error>) -> Refused {
    Refused::new(RefusalCode::Failed, format!("{:#}", error.into()))
}

/// A host that can receive containers.
pub trait Destination: Send + Sync {
    /// A migration under way on it.
    type Incoming: Incoming;

    /// Checks whether `container` could come, and new connections with it. Changes nothing.
    fn check(
        &self,
        container: &ContainerFacts,
        source: &HostFacts,
        forward_new: bool,
    ) -> impl Future<Output = Step<Vec<Check>>> + Send;

    /// Opens a migration of `peer` at `address`; also says what must be sent of the image, if anything.
    /// Until it ends, no other migration of this container is opened; and never another of this id.
    fn begin(
        &self,
        migration: MigrationId,
        container: ContainerFacts,
        source: &HostFacts,
        peer: &Peer,
        address: SocketAddr,
        cancel: CancellationToken,
    ) -> impl Future<Output = Step<(Self::Incoming, Option<MissingImage>)>> + Send;

    /// What became of a migration of `peer`; those of others are unknown to it.
    fn fate(&self, migration: &MigrationId, peer: &Peer)
    -> impl Future<Output = Step<Fate>> + Send;

    /// How many migrations to it are under way: those whose fate is open.
    fn under_way(&self) -> usize;

    /// Brings up this end of a tunnel to the host at `address`, where flows of a container that came
    /// here enter. It goes away without being told to if the other end does not use it.
    fn introduce(
        &self,
        offer: Offer,
        address: IpAddr,
        peer: &Peer,
    ) -> impl Future<Output = Step<Terms>> + Send;
}

/// One migration at the destination. Called in the order that
/// [`common::protocol::State`] allows; after an error, only [`Incoming::roll_back`] is called.
pub trait Incoming: Send {
    /// Chooses a tunnel and brings up this end of it.
    fn open_tunnel(&mut self, offer: Offer) -> impl Future<Output = Step<Terms>> + Send;

    /// Proves that the tunnel works and opens it for bulk streams.
    fn prove_tunnel(&mut self) -> impl Future<Output = Step<(SocketAddr, Ticket)>> + Send;

    /// Gets ready for a bulk stream; returns at once.
    fn receive(&mut self, stream: u32, kind: StreamKind) -> impl Future<Output = Step<()>> + Send;

    /// Waits for the stream's end and compares it with what was sent. Returns warnings for the operator.
    fn stream_end(
        &mut self,
        digest: StreamDigest,
    ) -> impl Future<Output = Step<Vec<String>>> + Send;

    /// Brings the container to the gate; returns what happens to its packets until the commit.
    fn stage(&mut self) -> impl Future<Output = Step<Packets>> + Send;

    /// Waits for the end of the stream of memory and compares it with what was sent.
    fn memory_end(&mut self, digest: StreamDigest) -> impl Future<Output = Step<()>> + Send;

    /// Installs flows; returns how many wait to be redirected.
    fn flows(&mut self, flows: Vec<MovedFlow>) -> impl Future<Output = Step<usize>> + Send;

    /// Redirects the flows that already pass through this host to the container here.
    fn redirect(&mut self) -> impl Future<Output = Step<()>> + Send;

    /// Opens the gate. The container runs when this returns; nothing it sends leaves. Returns what of it could not
    /// be restored, in sentences.
    fn restore(&mut self) -> impl Future<Output = Step<Vec<String>>> + Send;

    /// Makes the container this host's own and releases its packets. Not undone.
    fn commit(&mut self) -> impl Future<Output = Step<()>> + Send;

    /// After a commit that was answered: removes what only the outage needed.
    fn finish_outage(&mut self) -> impl Future<Output = ()> + Send;

    /// What became of packets in the outage, once it is finished; `None` if they did not wait.
    fn packets(&self) -> Option<Count>;

    /// Undoes everything; returns what could not be undone.
    fn roll_back(&mut self, why: &str) -> impl Future<Output = Vec<String>> + Send;
}
