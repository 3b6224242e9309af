//! After a migration: lets flows that entered at another host bypass this one.

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

use super::tunnel::wait_until_arrived;
use crate::control::{Control, RequestError, unexpected};
use crate::source::Flows;

/// How long the host at the other end of a tunnel may take to say what it forwards into it.
const GREETING: Duration = Duration::from_secs(5);

/// Packets sent the long way, before the bypass, have arrived after this time.
const UNDER_WAY: Duration = Duration::from_millis(1500);

/// A flow that still comes this way has had a packet within this time, or it can wait for its next
/// one.
const UNUSED: Duration = Duration::from_millis(500);

/// Why flows still go through this host.
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
    /// How many no longer pass this host.
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
    /// Introduces the hosts where its flows enter, and those where new ones may enter, to the host that
    /// it has moved to.
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
                            "{count} connections that enter at {entry} still go through this host, \
                             which must stay up for them: {obstacle}"
                        ),
                    });
                }
            }
        }
        if !bypassed.is_empty()
            && let Err(error) = self.leave(&bypassed).await
        {
            // The entries time out without us.
            tracing::debug!("{error:#}");
        }
        result
    }

    /// Makes this host forget flows that came through these tunnels and no longer do.
    async fn leave(&self, bypassed: &[Index]) -> anyhow::Result<()> {
        let each = || {
            bypassed
                .iter()
                .flat_map(|t| self.flows.iter().map(move |f| (*t, f)))
        };
        // Packets that were still under way have refreshed the entries.
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

    /// Introduces the two hosts for what comes through one tunnel. Also says at which host that
    /// enters, if that became known.
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
            // No flow of this container is known to come from there.
            Err(_) if passing.is_empty() => (None, Ok(0)),
            Err(error) => (None, Err(error.into())),
        }
    }

    /// Waits until the packets that still took the long way have passed this host: first, through the
    /// container's tunnel, those that came in through `through` and the replies to them; then these
    /// replies, through `through`.
    async fn wait_until_arrived(&self, through: Index) {
        for tunnel in [self.tunnel, through] {
            wait_until_arrived(tunnel, UNDER_WAY).await;
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
            // The packets that wait there are released after a while anyway.
            tracing::debug!("{error}");
        }
        for flows in self.flows {
            flows.expire_soon(through).await.map_err(Obstacle::Here)?;
        }
        Ok((entry, count))
    }
}
