//! New connections to the ports that the container publishes here follow it, if the user asked for
//! that.

use common::container::ports::ranges;
use common::net::flows::port_forward::Forward;
use common::net::flows::port_forwards;
use common::net::mark::Index;
use common::net::state::Dirs;
use common::undo::Undo;
use tokio::task::spawn_blocking;

use crate::source::Source;

/// The forward is on record before the commit, so that whoever finishes this migration activates
/// it.
pub(super) async fn prepare(source: &Source, tunnel: Index, undo: &mut Undo) -> anyhow::Result<()> {
    let forward = Forward::of(&source.facts);
    let id = forward.container.id.clone();
    undo.register("forward", move || async move {
        spawn_blocking(move || port_forwards::remove(&Dirs::default(), &id)).await??;
        Ok(())
    });
    let prepare = move || port_forwards::prepare(&Dirs::default(), tunnel, forward);
    spawn_blocking(prepare).await??;
    Ok(())
}

/// Activates the forward. Returns the ports.
pub(super) async fn activate(source: &Source) -> anyhow::Result<Vec<String>> {
    let id = source.facts.id.clone();
    spawn_blocking(move || port_forwards::activate(&Dirs::default(), &id)).await??;
    let ports = ranges(&source.facts.ports);
    Ok(ports.iter().map(ToString::to_string).collect())
}
