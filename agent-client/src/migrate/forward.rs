//! New connections to the ports that the container publishes here: they follow it, if that is asked
//! for.

use std::sync::Arc;

use common::net::published::{self, Forward};
use common::net::tunnel::{Dirs, Tunnel};
use common::undo::Undo;
use tokio::task::spawn_blocking;

use crate::source::Source;

/// The forward is on record before the commit: whoever finishes this migration has it work.
pub(super) async fn prepare(
    source: &Source,
    tunnel: &Arc<Tunnel>,
    undo: &mut Undo,
) -> anyhow::Result<()> {
    let forward = Forward::of(&source.facts);
    let id = forward.container.id.clone();
    undo.register("forward", move || async move {
        spawn_blocking(move || published::remove(&Dirs::default(), &id)).await??;
        Ok(())
    });
    let tunnel = tunnel.clone();
    let prepare = move || published::prepare(&Dirs::default(), &tunnel, forward);
    spawn_blocking(prepare).await??;
    Ok(())
}

/// From now on it works. Returns the ports.
pub(super) async fn activate(source: &Source) -> anyhow::Result<Vec<String>> {
    let id = source.facts.id.clone();
    spawn_blocking(move || published::activate(&Dirs::default(), &id)).await??;
    let ports = source.facts.ports.iter().map(ToString::to_string);
    Ok(ports.collect())
}
