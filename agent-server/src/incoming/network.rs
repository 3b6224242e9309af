//! A container's network during the outage: nothing passes, and packets wait until something may.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use common::net::inside;
use common::net::kernel::sysctl;
use common::net::packets::mss::{self, Mtus};
use common::net::packets::quarantine;
use common::net::packets::queue::{Count, PacketQueue};
use common::protocol::Packets;
use tokio::task::spawn_blocking;

/// How long it may take until the packets that waited have left.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// The network of a container at the gate, if it has one of its own.
#[derive(Default)]
pub(super) struct Network {
    netns: Option<PathBuf>,
    packets: Option<PacketQueue>,
    /// What became of the packets, once none wait any more.
    count: Option<Count>,
    /// The original MTUs of the container's interfaces, while others are set.
    mtus: Option<Mtus>,
}

impl Network {
    /// For a container with this network namespace.
    pub(super) fn new(netns: Option<PathBuf>) -> Self {
        Network {
            netns,
            ..Self::default()
        }
    }

    /// The container's network namespace.
    pub(super) fn netns(&self) -> Option<PathBuf> {
        self.netns.clone()
    }

    /// Sets the container's own kernel parameters: a restored container does not get them from its
    /// runtime. They go away with its network namespace.
    pub(super) async fn set_parameters(
        &self,
        parameters: BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        let Some(netns) = self.netns.clone() else {
            return Ok(());
        };
        Ok(spawn_blocking(move || sysctl::set_inside(&netns, &parameters)).await??)
    }

    /// Has the container prefer the networks that it preferred at the source: its connections have addresses of these.
    /// Goes away with its network namespace.
    pub(super) async fn order_default_routes(&self, interfaces: Vec<String>) -> anyhow::Result<()> {
        let Some(netns) = self.netns.clone().filter(|_| interfaces.len() > 1) else {
            return Ok(());
        };
        let order = move || inside::order_default_routes(&netns, &interfaces);
        let ordered = spawn_blocking(order).await?;
        ordered.context("cannot put its default routes into their order")
    }

    /// Makes sure that nothing reaches the container or leaves it. Goes away with its network
    /// namespace.
    pub(super) async fn cut_off(&mut self) -> anyhow::Result<Packets> {
        let Some(netns) = self.netns.clone() else {
            return Ok(Packets::Dropped);
        };
        self.packets = spawn_blocking(move || match quarantine::queue_packets(&netns) {
            Ok(packets) => Ok(Some(packets)),
            Err(error) => {
                tracing::warn!("{error}: packets are dropped during the outage");
                quarantine::apply(&netns).map(|()| None)
            }
        })
        .await??;
        let netns = self.netns.clone().context("the container has a network")?;
        self.mtus = Some(spawn_blocking(move || mss::set_apart(&netns)).await??);
        Ok(match self.packets {
            Some(_) => Packets::Held,
            None => Packets::Dropped,
        })
    }

    /// Lets packets through, beginning with those that have waited.
    pub(super) async fn let_packets_pass(&mut self) -> anyhow::Result<()> {
        match (&self.packets, self.netns.clone()) {
            (Some(packets), _) => {
                packets.release();
                Ok(())
            }
            (None, Some(netns)) => Ok(spawn_blocking(move || quarantine::lift(&netns)).await??),
            (None, None) => Ok(()),
        }
    }

    /// Lets the restored connections find out again how much they may send at a time.
    pub(super) async fn put_mtus_back(&mut self) -> anyhow::Result<()> {
        let (Some(netns), Some(mtus)) = (self.netns.clone(), self.mtus.take()) else {
            return Ok(());
        };
        Ok(spawn_blocking(move || mss::put_back(&netns, &mtus)).await??)
    }

    /// Removes the quarantine once the last packet that waited has left: call after
    /// [`Self::let_packets_pass`].
    pub(super) async fn reopen(&mut self) -> anyhow::Result<()> {
        let (Some(netns), Some(packets)) = (self.netns.clone(), self.packets.take()) else {
            return Ok(());
        };
        self.count = spawn_blocking(move || remove_quarantine(&netns, &packets)).await??;
        Ok(())
    }

    /// What became of the packets in the outage, once it is over and if they waited.
    pub(super) fn count(&self) -> Option<Count> {
        self.count
    }

    /// Drops the packets that wait.
    pub(super) fn give_up(&mut self) {
        self.packets = None;
    }
}

/// Removes a quarantine that already lets packets pass, without losing any. Returns what became of them, if the kernel
/// says it.
fn remove_quarantine(netns: &Path, packets: &PacketQueue) -> anyhow::Result<Option<Count>> {
    // Those that wait must leave first, or later ones would overtake them.
    if !packets.wait_until_caught_up(RELEASE_LIMIT) {
        tracing::warn!("the container does not read its packets as fast as they come");
    }
    quarantine::open(netns)?;
    packets.wait_until_empty(RELEASE_LIMIT)?;
    let count = packets.count()?;
    quarantine::lift(netns)?;
    Ok(count)
}
