//! The container's flows on their way to the destination.

use std::time::Duration;

use anyhow::Context;
use common::net::flows::decide::FlowCount;
use common::net::mark::Index;
use common::protocol::message::FLOWS_PER_BATCH;
use common::protocol::{Reply, Request};
use common::undo::Undo;

use super::tunnel::wait_until_arrived;
use crate::control::{Control, RequestError, unexpected};
use crate::source::{Flows, Source};

/// Longest that packets may be on their way through the tunnel. All of it is outage.
const UNDER_WAY: Duration = Duration::from_millis(300);

/// The flows of the container that moves.
pub(super) struct MovingFlows {
    /// The tunnel that they are redirected into.
    pub(super) tunnel: Index,
    /// The flows found at the first look, then those that began between it and the freeze.
    looks: Vec<Flows>,
    /// Some flows of the first look already pass through the destination, which has yet to redirect
    /// them.
    waiting: bool,
}

impl MovingFlows {
    /// Looks up the flows while the container runs on, tells the destination of them, and gets them
    /// ready to be redirected into `tunnel`.
    pub(super) async fn prepare(
        source: &Source,
        tunnel: Index,
        control: &mut Control,
    ) -> anyhow::Result<Self> {
        let first = source.flows(None).await.context("cannot read the flows")?;
        let waiting = install(&first, control).await?;
        let ready = first.prepare(tunnel).await;
        ready.context("cannot prepare the flows")?;
        Ok(MovingFlows {
            tunnel,
            looks: vec![first],
            waiting,
        })
    }

    /// Sends the packets of the first look's flows to the destination from now on.
    pub(super) async fn redirect(
        &mut self,
        control: &mut Control,
        undo: &mut Undo,
    ) -> anyhow::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        redirect(self.first(), waiting, self.tunnel, control, undo).await?;
        if waiting {
            // What the destination has sent here before it began to keep packets for the container there: once it is
            // frozen they would be lost.
            wait_until_arrived(self.tunnel, UNDER_WAY).await;
        }
        Ok(())
    }

    /// Lets the flows follow that began between the first look and the freeze.
    pub(super) async fn follow(
        &mut self,
        source: &Source,
        control: &mut Control,
        undo: &mut Undo,
    ) -> anyhow::Result<()> {
        let late = source.flows(Some(self.first())).await;
        let late = late.context("cannot read the flows")?;
        let waiting = install(&late, control).await?;
        late.prepare(self.tunnel).await?;
        redirect(&late, waiting, self.tunnel, control, undo).await?;
        self.looks.push(late);
        Ok(())
    }

    /// Redirects the first look's flows again, after some of them were held back.
    pub(super) async fn redirect_again(&self) -> anyhow::Result<()> {
        let redirected = self.first().redirect(self.tunnel).await;
        redirected.context("cannot redirect the flows again")
    }

    /// The flows of the first look.
    pub(super) fn first(&self) -> &Flows {
        &self.looks[0]
    }

    /// All flows, look by look.
    pub(super) fn looks(&self) -> &[Flows] {
        &self.looks
    }

    /// How many have moved.
    pub(super) fn count(&self) -> FlowCount {
        let moved: Vec<_> = self.looks.iter().flat_map(Flows::moved).collect();
        FlowCount::of(&moved)
    }

    /// After the old container's removal: puts back what went with it. Returns what may not
    /// have moved, and why.
    pub(super) async fn reconcile(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for flows in &self.looks {
            if let Err(error) = flows.reconcile(self.tunnel).await {
                warnings.push(format!("some flows may not have moved: {error:#}"));
            }
        }
        warnings
    }
}

/// Tells the destination of flows, before any of their packets can get there. Returns whether some
/// wait for the destination to redirect them.
async fn install(flows: &Flows, control: &mut Control) -> Result<bool, RequestError> {
    let mut some = false;
    for batch in flows.moved().chunks(FLOWS_PER_BATCH) {
        let request = Request::Flows {
            flows: batch.to_vec(),
        };
        match control.ask(request).await? {
            Reply::FlowsInstalled { waiting } => some = waiting > 0,
            other => return Err(unexpected(&other)),
        }
    }
    Ok(some)
}

/// Sends the packets of flows to the destination from now on.
async fn redirect(
    flows: &Flows,
    waiting: bool,
    tunnel: Index,
    control: &mut Control,
    undo: &mut Undo,
) -> anyhow::Result<()> {
    let back = flows.clone();
    undo.register("flows", move || async move { back.restore().await });
    // Flows that already pass through the destination are redirected there.
    if waiting {
        control.ask(Request::Redirect).await?;
    }
    let redirected = flows.redirect(tunnel).await;
    redirected.context("cannot redirect the flows")
}
