//! A destination that records what is asked of it, and does what a test tells it to.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_server::destination::{Destination, Incoming, Step};
use common::container::ContainerFacts;
use common::host::HostFacts;
use common::net::flows::decide::MovedFlow;
use common::net::packets::queue::Count;
use common::net::tunnel::agreement::{Agreement, End, Offer, PublicKey, Terms};
use common::preflight::Check;
use common::protocol::{
    Fate, MigrationId, MissingImage, Packets, RefusalCode, Refused, StreamDigest, StreamKind,
};
use common::ticket::Ticket;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use trust::Peer;

/// What a step does instead of succeeding at once.
#[derive(Clone, Copy)]
pub(crate) enum Plan {
    /// It fails with [`failure`].
    Fail,
    /// It waits until it is released, then succeeds; if cancelled before, it fails after a while.
    Wait,
    /// It waits until it is cancelled, and then succeeds all the same.
    TooLate,
}

/// A destination; clones share everything.
#[derive(Clone, Default)]
pub(crate) struct Host(Arc<Shared>);

#[derive(Default)]
struct Shared {
    calls: watch::Sender<Vec<String>>,
    plan: Mutex<Option<(&'static str, Plan)>>,
    released: Notify,
    leftovers: Mutex<Vec<String>>,
}

/// A migration at a [`Host`].
pub(crate) struct Migration {
    host: Host,
    cancel: CancellationToken,
}

/// How the step `name` fails.
pub(crate) fn failure(name: &str) -> Refused {
    Refused {
        code: RefusalCode::Failed,
        message: format!("{name} went wrong"),
        log: Some(format!("/kept/{name}.log")),
    }
}

impl Host {
    /// The next call of the step `name` follows `plan`.
    pub(crate) fn plan(&self, name: &'static str, plan: Plan) {
        *self.0.plan.lock().unwrap() = Some((name, plan));
    }

    /// Ends a [`Plan::Wait`].
    pub(crate) fn release(&self) {
        self.0.released.notify_one();
    }

    /// What a rollback cannot undo from now on.
    pub(crate) fn leave_over(&self, leftovers: &[&str]) {
        *self.0.leftovers.lock().unwrap() = leftovers.iter().map(|&l| l.to_owned()).collect();
    }

    /// All calls so far: the step's name, then those of its arguments that matter here.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.0.calls.borrow().clone()
    }

    /// How many of the calls so far were of the step `name`.
    pub(crate) fn count(&self, name: &str) -> usize {
        let named = |call: &&String| call.split(' ').next() == Some(name);
        self.calls().iter().filter(named).count()
    }

    /// Waits until there were `count` calls.
    pub(crate) async fn until_called(&self, count: usize) {
        let mut calls = self.0.calls.subscribe();
        calls.wait_for(|calls| calls.len() >= count).await.unwrap();
    }

    fn record(&self, call: String) {
        self.0.calls.send_modify(|calls| calls.push(call));
    }

    async fn step(
        &self,
        name: &str,
        arguments: impl Display,
        cancel: &CancellationToken,
    ) -> Step<()> {
        // Taken before the call is recorded: a test that sees the call may plan the next one.
        let plan = self
            .0
            .plan
            .lock()
            .unwrap()
            .take_if(|(planned, _)| *planned == name);
        self.record(format!("{name} {arguments}").trim_end().to_owned());
        match plan {
            None => Ok(()),
            Some((_, Plan::Fail)) => Err(failure(name)),
            Some((_, Plan::TooLate)) => {
                cancel.cancelled().await;
                Ok(())
            }
            Some((_, Plan::Wait)) => {
                tokio::select! {
                    () = self.0.released.notified() => return Ok(()),
                    () = cancel.cancelled() => {}
                }
                // A session that does not wait for the end of the step misses this record.
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.record(format!("cancelled {name}"));
                Err(Refused::new(RefusalCode::Cancelled, "cancelled"))
            }
        }
    }
}

impl Destination for Host {
    type Incoming = Migration;

    async fn check(
        &self,
        container: &ContainerFacts,
        _source: &HostFacts,
        _forward_new: bool,
    ) -> Step<Vec<Check>> {
        self.step("check", &container.name, &CancellationToken::new())
            .await?;
        Ok(Vec::new())
    }

    async fn begin(
        &self,
        _migration: MigrationId,
        container: ContainerFacts,
        _source: &HostFacts,
        peer: &Peer,
        address: SocketAddr,
        cancel: CancellationToken,
    ) -> Step<(Migration, Option<MissingImage>)> {
        assert!(!cancel.is_cancelled(), "cancelled before it has begun");
        let arguments = format!("{} from {} at {address}", container.name, peer.name);
        self.step("begin", arguments, &cancel).await?;
        let host = self.clone();
        Ok((Migration { host, cancel }, Some(MissingImage::default())))
    }

    async fn fate(&self, migration: &MigrationId, peer: &Peer) -> Step<Fate> {
        let arguments = format!("{migration} from {}", peer.name);
        self.step("fate", arguments, &CancellationToken::new())
            .await?;
        Ok(Fate::Committed)
    }

    fn under_way(&self) -> usize {
        let begun = self.count("begin");
        begun - self.count("commit").min(begun)
    }

    async fn introduce(&self, offer: Offer, address: IpAddr, _peer: &Peer) -> Step<Terms> {
        self.step("introduce", address, &CancellationToken::new())
            .await?;
        Ok(terms(&offer))
    }
}

fn terms(offer: &Offer) -> Terms {
    let end = |key: &str| End {
        public_key: PublicKey(key.into()),
        port: offer.port,
    };
    Terms {
        agreement: Agreement {
            ends: [end("a"), end("b")],
            ipv4: serde_json::from_value("10.0.0.0/30".into()).unwrap(),
            ipv6: None,
        },
        ticket: Ticket::random(),
    }
}

impl Migration {
    async fn step(&self, name: &str, arguments: impl Display) -> Step<()> {
        self.host.step(name, arguments, &self.cancel).await
    }
}

impl Incoming for Migration {
    async fn open_tunnel(&mut self, offer: Offer) -> Step<Terms> {
        self.step("open_tunnel", offer.port).await?;
        Ok(terms(&offer))
    }

    async fn prove_tunnel(&mut self) -> Step<(SocketAddr, Ticket)> {
        self.step("prove_tunnel", "").await?;
        Ok((SocketAddr::from(([10, 0, 0, 2], 4000)), Ticket::random()))
    }

    async fn receive(&mut self, stream: u32, kind: StreamKind) -> Step<()> {
        self.step("receive", format!("{stream} {kind:?}")).await
    }

    async fn stream_end(&mut self, digest: StreamDigest) -> Step<Vec<String>> {
        self.step("stream_end", digest.bytes).await?;
        Ok(Vec::new())
    }

    async fn stage(&mut self) -> Step<Packets> {
        self.step("stage", "").await?;
        Ok(Packets::Held)
    }

    async fn memory_end(&mut self, digest: StreamDigest) -> Step<()> {
        self.step("memory_end", digest.bytes).await?;
        Ok(())
    }

    async fn flows(&mut self, flows: Vec<MovedFlow>) -> Step<usize> {
        self.step("flows", flows.len()).await?;
        Ok(0)
    }

    async fn redirect(&mut self) -> Step<()> {
        self.step("redirect", "").await
    }

    async fn restore(&mut self) -> Step<Vec<String>> {
        self.step("restore", "").await?;
        Ok(Vec::new())
    }

    async fn commit(&mut self) -> Step<()> {
        self.step("commit", "").await
    }

    async fn finish_outage(&mut self) {
        self.host.record("finish_outage".to_owned());
    }

    fn packets(&self) -> Option<Count> {
        None
    }

    async fn roll_back(&mut self, why: &str) -> Vec<String> {
        self.host.record(format!("roll_back {why}"));
        self.host.0.leftovers.lock().unwrap().clone()
    }
}
