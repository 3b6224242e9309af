//! The tunnel to the destination.

use std::sync::Arc;
use std::time::Duration;

use common::bulk;
use common::multicall::keeper_command;
use common::net::mark::Index;
use common::net::state::{Claim, Dirs};
use common::net::tunnel::{self, MOST_TRIES, PROOF_LIMIT, Tunnel, TunnelError};
use common::protocol::{Reply, Request};
use common::undo::Undo;
use tokio::task::spawn_blocking;

use crate::control::{Control, unexpected};
use crate::source::Data;

/// Agrees on a tunnel with the destination and sets up this end of it.
pub(super) async fn establish(control: &mut Control) -> anyhow::Result<Tunnel> {
    let (peer, server) = (control.peer, control.server);
    let mut tries = 1..=MOST_TRIES;
    loop {
        let offer = spawn_blocking(|| Tunnel::offer(&Dirs::default(), &keeper_command));
        let offer = offer.await??;
        let terms = match control.ask(Request::OpenTunnel { offer }).await? {
            Reply::TunnelOpened { terms } => terms,
            other => return Err(unexpected(&other).into()),
        };
        let established = spawn_blocking(move || {
            let claim = Claim::Server(server);
            Tunnel::establish(&Dirs::default(), &terms, peer, &claim, &keeper_command)
        });
        match established.await? {
            Err(TunnelError::Taken(..)) if tries.next().is_some() => {}
            established => return Ok(established?),
        }
    }
}

/// Takes the tunnel down if the migration fails. Disarming `undo` gives up the lease that this keeps.
pub(super) fn register_undo(tunnel: &Arc<Tunnel>, undo: &mut Undo) {
    let undone = tunnel.clone();
    undo.register("tunnel", move || async move {
        // The phases have ended by now and hold it no longer.
        if let Some(tunnel) = Arc::into_inner(undone) {
            spawn_blocking(move || tunnel.teardown()).await??;
        }
        Ok(())
    });
}

/// Makes sure that the tunnel carries packets both ways. Returns the path for bulk streams; `sent`
/// counts their bytes.
pub(super) async fn prove(
    tunnel: &Arc<Tunnel>,
    control: &mut Control,
    sent: bulk::ByteCount,
) -> anyhow::Result<Data> {
    let proven = tunnel.clone();
    let (here, there) = tokio::join!(
        spawn_blocking(move || proven.prove(PROOF_LIMIT)),
        control.ask(Request::ProveTunnel)
    );
    here??;
    match there? {
        Reply::TunnelProven { data, ticket } => Ok(Data {
            address: data,
            ticket,
            sent,
        }),
        other => Err(unexpected(&other).into()),
    }
}

/// Waits until what was put into the tunnel before, at either end, has come out at the other one, but no
/// longer than `limit`: an echo comes after it.
pub(super) async fn wait_until_arrived(tunnel: Index, limit: Duration) {
    let echo = move || tunnel::echo(&Dirs::default(), tunnel, limit);
    match spawn_blocking(echo).await {
        Ok(Ok(true)) => {}
        failed => {
            tracing::debug!(%tunnel, "no echo, packets may be lost or overtake others: {failed:?}")
        }
    }
}
