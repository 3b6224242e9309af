//! Floods of datagrams for the frozen container that leave the checkpoint no room in the tunnel.
//!
//! The datagrams would wait at the destination, but more of them come than the tunnel can carry: most are
//! dropped on the way. So is part of the checkpoint, whose TCP stream slows down with each lost packet and
//! would arrive only once the flood ends. So the datagrams are dropped here instead, until the checkpoint is
//! there.

use std::time::Duration;

use common::net::mark::Index;
use common::net::tunnel::overflow;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::source::Flows;

/// Poll interval, and how many packets the tunnel may drop within one. A tunnel that was only briefly full
/// has room again in the next interval.
const LOOK: Duration = Duration::from_millis(20);
const MOST_DROPPED: u64 = 100;

/// Watches the tunnel while the checkpoint is sent. Ends when dropped.
pub(super) struct Watch {
    held_back: JoinHandle<anyhow::Result<usize>>,
    end: DropGuard,
}

impl Watch {
    /// If `tunnel` overflows, sends the datagrams of `flows` the way they went before they were redirected
    /// into it. Undone by [`Flows::redirect`], and by [`Flows::restore`] along with everything else.
    pub(super) fn begin(flows: Flows, tunnel: Index) -> Self {
        let end = CancellationToken::new();
        let ended = end.clone();
        let held_back = tokio::spawn(async move {
            if ended.run_until_cancelled(overflows(tunnel)).await.is_none() {
                return Ok(0);
            }
            tracing::debug!(%tunnel, "overflows");
            flows.hold_datagrams_back().await
        });
        Watch {
            held_back,
            end: end.drop_guard(),
        }
    }

    /// Ends it, and returns how many flows were held back. They stay held back.
    pub(super) async fn end(self) -> anyhow::Result<usize> {
        drop(self.end);
        self.held_back.await?
    }
}

/// Waits until the tunnel has dropped too many packets within one poll interval.
async fn overflows(tunnel: Index) {
    let look = || spawn_blocking(move || overflow::dropped(tunnel));
    let mut before = None;
    loop {
        // If the interface is gone, whoever sends through it notices.
        let now = look().await.ok().and_then(Result::ok);
        if let (Some(before), Some(now)) = (before, now)
            && now.saturating_sub(before) > MOST_DROPPED
        {
            return;
        }
        before = now;
        sleep(LOOK).await;
    }
}
