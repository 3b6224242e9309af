//! The container's flows at this host.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use common::container::ContainerFacts;
use common::net::flows::apply::{self, Departing};
use common::net::flows::decide::MovedFlow;
use common::net::flows::neighbours::{self, Parting};
use common::net::mark::Index;
use common::net::rules::guard::guard;
use tokio::task::spawn_blocking;

/// Flows of the container in this host's conntrack table.
#[derive(Clone)]
pub(crate) struct Flows {
    departing: Arc<Departing>,
    /// Peers within the container's networks.
    neighbours: Arc<HashSet<IpAddr>>,
    /// What the peers need that are containers of this host.
    parting: Arc<Parting>,
    /// The container's.
    addresses: Vec<IpAddr>,
}

impl Flows {
    /// Those of the container `facts`, whose first process is `pid`, as they are now, without those that
    /// were there `earlier`.
    pub(super) async fn find(
        facts: &ContainerFacts,
        pid: i32,
        earlier: Option<&Flows>,
    ) -> anyhow::Result<Self> {
        let addresses = facts.addresses();
        let subnets = facts.subnets();
        let earlier = earlier.map(|flows| flows.departing.clone());
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

    /// What the destination is told.
    pub(crate) fn moved(&self) -> Vec<MovedFlow> {
        self.departing.flows().cloned().collect()
    }

    /// Makes them ready to be redirected into the tunnel. They go on as before.
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

    /// Redirects them into the tunnel. Undone by [`Flows::restore`].
    pub(crate) async fn redirect(&self, tunnel: Index) -> anyhow::Result<()> {
        let flows = self.clone();
        spawn_blocking(move || {
            neighbours::keep_addresses(&flows.neighbours, tunnel)?;
            flows.departing.redirect(tunnel)?;
            Ok(flows.parting.make()?)
        })
        .await?
    }

    /// Gives the flows of datagrams the marks back that they had. Undone by [`Flows::redirect`]. Returns
    /// how many there are.
    pub(crate) async fn hold_datagrams_back(&self) -> anyhow::Result<usize> {
        let departing = self.departing.clone();
        Ok(spawn_blocking(move || departing.restore_datagrams()).await??)
    }

    /// Gives them the marks back that they had.
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
