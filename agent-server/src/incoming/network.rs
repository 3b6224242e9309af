//! A container's network during the outage: nothing passes, and packets wait until something may.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use common::net::packets::mss::{self, Mtus};
use common::net::packets::quarantine;
use common::net::packets::queue::PacketQueue;
use common::protocol::Packets;
use tokio::task::spawn_blocking;

/// How long packets that waited may take to go.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// The network of a container at the gate, as far as it has one of its own.
#[derive(Default)]
pub(super) struct Network {
    netns: Option<PathBuf>,
    packets: Option<PacketQueue>,
    /// Those of the container's interfaces, as long as they have others.
    mtus: Option<Mtus>,
}

impl Network {
    /// Of a container with this network namespace.
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

    /// Sees to it that nothing reaches the container or leaves it. Undone with its network namespace.
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

    /// Lets packets through, those that have waited first.
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

    /// Lets the restored connections find out how much they may send at a time.
    pub(super) async fn put_mtus_back(&mut self) -> anyhow::Result<()> {
        let (Some(netns), Some(mtus)) = (self.netns.clone(), self.mtus.take()) else {
            return Ok(());
        };
        Ok(spawn_blocking(move || mss::put_back(&netns, &mtus)).await??)
    }

    /// Removes the quarantine, behind the last packet that waits: after [`Self::let_packets_pass`].
    pub(super) async fn reopen(&mut self) -> anyhow::Result<()> {
        let (Some(netns), Some(packets)) = (self.netns.clone(), self.packets.take()) else {
            return Ok(());
        };
        spawn_blocking(move || remove_quarantine(&netns, &packets)).await?
    }

    /// Lets go of packets that wait, for good.
    pub(super) fn give_up(&mut self) {
        self.packets = None;
    }
}

/// Removes a quarantine whose packets pass already, without losing one of them.
fn remove_quarantine(netns: &Path, packets: &PacketQueue) -> anyhow::Result<()> {
    // Those that wait first, or later ones would overtake them.
    if !packets.wait_until_caught_up(RELEASE_LIMIT) {
        tracing::warn!("the container does not read its packets as fast as they come");
    }
    quarantine::open(netns)?;
    packets.wait_until_empty(RELEASE_LIMIT)?;
    Ok(quarantine::lift(netns)?)
}
