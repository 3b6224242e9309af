//! Packets keep their order when their path gets shorter.
//!
//! When a flow begins to bypass a host, some of its packets are still on the long path, and those on the
//! short path would overtake them. So the latter wait where the short path begins (at the entry for packets
//! to the container, at the container's host for packets to the peer) until the former must have arrived.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::queue::{PacketQueue, QueueError};
use crate::lock::LockError;
use crate::net::mark::Index;
use crate::net::rules;
use crate::net::rules::nft::FirewallError;
use crate::net::state::Dirs;

/// How long packets wait at most, if nobody releases them.
const LONGEST: Duration = Duration::from_secs(1);

/// How long releasing them may take.
const LIMIT: Duration = Duration::from_secs(1);

/// The queues' numbers begin here: one for each tunnel.
const FIRST_QUEUE: u16 = 0xC180;

/// Packets cannot wait. They pass, perhaps out of order.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    /// There is no queue for them.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Nor a rule.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The tunnels' lock.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// While this exists, packets of moved flows that are to leave through a tunnel wait. Dropping it releases
/// them.
pub(crate) struct Waiting {
    _until_dropped: oneshot::Sender<()>,
}

impl Waiting {
    /// Makes them wait from now on. If this process dies they pass.
    pub(crate) async fn begin(dirs: &Dirs, tunnel: Index) -> Result<Self, OrderError> {
        let ours = dirs.clone();
        let packets = spawn_blocking(move || {
            let _lock = ours.lock_all()?;
            let some_wait = ours.some_wait()?;
            let packets = PacketQueue::begin_here(queue(tunnel))?;
            rules::queue::begin(tunnel, queue(tunnel))?;
            Ok::<_, OrderError>((packets, some_wait))
        });
        let (packets, some_wait) = packets.await.expect("it does not panic")?;
        let (_until_dropped, dropped) = oneshot::channel();
        let dirs = dirs.clone();
        tokio::spawn(async move {
            let _ = timeout(LONGEST, dropped).await;
            let ended = spawn_blocking(move || end(&dirs, tunnel, packets));
            if let Ok(Err(error)) = ended.await {
                tracing::warn!("{error}");
            }
            drop(some_wait);
        });
        Ok(Waiting { _until_dropped })
    }
}

fn queue(tunnel: Index) -> u16 {
    FIRST_QUEUE + u16::from(tunnel.get())
}

/// Releases those that wait before the rule goes, or others would overtake them. The queue is given up before the lock
/// is: whoever has packets wait next takes the same one.
fn end(dirs: &Dirs, tunnel: Index, packets: PacketQueue) -> Result<(), OrderError> {
    packets.release();
    packets.wait_until_caught_up(LIMIT);
    let _lock = dirs.lock_all()?;
    rules::queue::end(tunnel)?;
    packets.wait_until_empty(LIMIT)?;
    drop(packets);
    Ok(())
}
