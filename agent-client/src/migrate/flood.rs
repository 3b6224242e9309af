//! Datagrams for the frozen container that leave the checkpoint no room in the tunnel.
//!
//! They would wait at the destination, but more come than the tunnel carries: most are dropped on their way,
//! and so is the checkpoint, whose stream slows down more with each packet that it loses. It would come
//! through when the flood ends. So they are dropped here instead, until it is there.

use std::time::Duration;

use common::net::mark::Index;
use common::net::tunnel::overflow;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::source::Flows;

/// How often it is looked, and how many packets the tunnel may have dropped in between: one that is full for
/// a moment has room again in the next.
const LOOK: Duration = Duration::from_millis(20);
const MOST_DROPPED: u64 = 100;

/// Looks after the tunnel while the checkpoint is sent. Ends when dropped.
pub(super) struct Watch {
    held_back: JoinHandle<anyhow::Result<usize>>,
    end: DropGuard,
}

impl Watch {
    /// Has datagrams of `flows` take the way that they took before they were turned into `tunnel`, if that
    /// overflows. Undone by [`Flows::redirect`], and by [`Flows::restore`] with all else.
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

    /// Ends it, and says how many flows were held back. They are still.
    pub(super) async fn end(self) -> anyhow::Result<usize> {
        drop(self.end);
        self.held_back.await?
    }
}

/// Waits until the tunnel has dropped more than it may from one look to the next.
async fn overflows(tunnel: Index) {
    let look = || spawn_blocking(move || overflow::dropped(tunnel));
    let mut before = None;
    loop {
        // An interface that is gone is noticed by whoever sends through it.
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
