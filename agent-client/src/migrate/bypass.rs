//! After a migration: leads flows that entered elsewhere past this host.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use common::net::flows::decide::MovedFlow;
use common::net::mark::Index;
use common::net::state::Dirs;
use common::net::tunnel::bypass::{Bypass, BypassError};
use common::net::tunnel::{self, MOST_TRIES};
use common::protocol::message::FLOWS_PER_BATCH;
use common::protocol::{Reply, Request};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::control::{Control, RequestError, unexpected};
use crate::source::Flows;

/// How long the host at the other end of a tunnel may take to say what it sends through it.
const GREETING: Duration = Duration::from_secs(5);

/// After this time nothing is under way any more that was sent before the path was shorter.
const UNDER_WAY: Duration = Duration::from_millis(1500);

/// A flow that comes this way all the same has had a packet in this time, or can wait for the next.
const UNUSED: Duration = Duration::from_millis(500);

/// Why flows go on through this host.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    /// At the host where they enter, or on the way there.
    #[error(transparent)]
    Entry(#[from] BypassError),
    /// At the container's new host, or on the way there.
    #[error(transparent)]
    Destination(#[from] RequestError),
    /// On this host.
    #[error("{0:#}")]
    Here(anyhow::Error),
}

/// What became of the flows that moved and had come through other tunnels.
#[derive(Debug, Default)]
pub(super) struct Bypassed {
    /// How many do not pass this host any more.
    pub(super) flows: usize,
    /// Why others still do.
    pub(super) warnings: Vec<String>,
}

/// A container that has moved on from here, through `tunnel`.
pub(super) struct Moved<'a> {
    pub(super) id: &'a str,
    pub(super) flows: &'a [Flows],
    pub(super) tunnel: Index,
}

impl Moved<'_> {
    /// Introduces the hosts where its flows enter, and where new ones may, to the one that it has moved
    /// to.
    pub(super) async fn bypass(&self, control: &mut Control) -> Bypassed {
        let mut entries: BTreeMap<Index, Vec<MovedFlow>> = BTreeMap::new();
        for (through, moved) in self.flows.iter().flat_map(|f| f.passing(self.tunnel)) {
            entries.entry(through).or_default().extend(moved);
        }
        let tunnels = spawn_blocking(|| tunnel::status::alive(&Dirs::default())).await;
        let mut others = tunnels.ok().and_then(Result::ok).unwrap_or_default();
        others.retain(|index| *index != self.tunnel);
        for index in others {
            entries.entry(index).or_default();
        }
        let mut result = Bypassed::default();
        let mut bypassed = Vec::new();
        for (through, passing) in entries {
            let (entry, done) = self.past(control, through, &passing).await;
            match done {
                Ok(0) => {}
                Ok(count) => {
                    result.flows += count;
                    bypassed.push(through);
                }
                Err(obstacle) => {
                    let entry = entry.map_or(through.interface(), |address| address.to_string());
                    result.warnings.push(match passing.len() {
                        0 => format!(
                            "new connections at {entry} do not follow the container: {obstacle}"
                        ),
                        count => format!(
                            "{count} connections that enter at {entry} go on through this host, \
                             which must stay up for them: {obstacle}"
                        ),
                    });
                }
            }
        }
        if !bypassed.is_empty()
            && let Err(error) = self.leave(&bypassed).await
        {
            // They end by themselves.
            tracing::debug!("{error:#}");
        }
        result
    }

    /// Has this host forget flows that came through these tunnels and do not any more.
    async fn leave(&self, bypassed: &[Index]) -> anyhow::Result<()> {
        let each = || {
            bypassed
                .iter()
                .flat_map(|t| self.flows.iter().map(move |f| (*t, f)))
        };
        // What was under way made their entries last again.
        sleep(UNDER_WAY).await;
        for (through, flows) in each() {
            flows.expire_soon(through).await?;
        }
        sleep(UNUSED).await;
        for (through, flows) in each() {
            flows.delete_faded(through).await?;
        }
        Ok(())
    }

    /// Does it for what comes through one tunnel. Also says where that enters, if it got so far.
    async fn past(
        &self,
        control: &mut Control,
        through: Index,
        passing: &[MovedFlow],
    ) -> (Option<IpAddr>, Result<usize, Obstacle>) {
        let opened = timeout(GREETING, async {
            let (mut entry, address) = Bypass::open(&Dirs::default(), through).await?;
            let forwards = entry.forwarding(self.id).await?;
            Ok((entry, address, forwards))
        });
        let opened = opened.await.unwrap_or(Err(BypassError::Silent));
        match opened {
            Ok((_, address, false)) if passing.is_empty() => (Some(address), Ok(0)),
            Ok((entry, address, forwards)) => {
                let introduced = self.introduce(control, entry, address, through, passing);
                let done = match introduced.await {
                    Ok((mut entry, count)) if forwards => {
                        let followed = entry.follow(self.id).await;
                        followed.map(|_| count).map_err(Obstacle::from)
                    }
                    other => other.map(|(_, count)| count),
                };
                (Some(address), done)
            }
            // Nothing of this container's is known to come from there.
            Err(_) if passing.is_empty() => (None, Ok(0)),
            Err(error) => (None, Err(error.into())),
        }
    }

    /// Waits until what was turned aside has passed this host: first what comes through `through`, and what
    /// comes back, then what that has become.
    async fn wait_until_arrived(&self, through: Index) {
        for tunnel in [self.tunnel, through] {
            let echo = move || tunnel::echo(&Dirs::default(), tunnel, UNDER_WAY);
            match spawn_blocking(echo).await {
                Ok(Ok(true)) => {}
                failed => {
                    tracing::debug!(%tunnel, "no echo, packets may overtake others: {failed:?}")
                }
            }
        }
    }

    async fn introduce(
        &self,
        control: &mut Control,
        mut entry: Bypass,
        address: IpAddr,
        through: Index,
        passing: &[MovedFlow],
    ) -> Result<(Bypass, usize), Obstacle> {
        let mut tries = 1..=MOST_TRIES;
        loop {
            let offer = entry.offer().await?;
            let request = Request::Introduce { offer, address };
            let terms = match control.insist(request).await? {
                Reply::Introduced { terms } => terms,
                other => return Err(unexpected(&other).into()),
            };
            match entry.meet(terms, control.peer).await {
                Err(BypassError::Taken) if tries.next().is_some() => {}
                met => break met?,
            }
        }
        let mut count = 0;
        for batch in passing.chunks(FLOWS_PER_BATCH) {
            count += entry.redirect(batch.to_vec()).await?;
        }
        self.wait_until_arrived(through).await;
        if let Err(error) = entry.arrived().await {
            // They go by themselves.
            tracing::debug!("{error}");
        }
        for flows in self.flows {
            flows.expire_soon(through).await.map_err(Obstacle::Here)?;
        }
        Ok((entry, count))
    }
}
