//! Removing the old container.

use anyhow::Context;
use common::container::binds;
use common::container::service::Parted;
use common::net::flows::guests;
use common::net::state::Dirs;
use common::report::Report;
use tokio::task::spawn_blocking;

use super::bypass::Moved;
use super::flows::MovingFlows;
use super::forward;
use crate::control::Control;
use crate::source::Source;

/// Sends new connections after the container. As long as the frozen copy is there, nothing refuses one in
/// between.
pub(super) async fn forward(source: &Source, report: &mut Report) {
    match forward::activate(source).await {
        Ok(ports) => report.forwarded_ports = ports,
        Err(error) => {
            let warning = format!("new connections are not forwarded: {error:#}");
            report.warnings.push(warning);
        }
    }
}

/// Removes the old container and its service, and keeps its flows going without it. What became of the
/// flows goes to `report`. The destination has said that everything is on disk there.
///
/// Fails if the container or its service is still there; everything else is only worth a warning.
pub(super) async fn remove(
    source: &Source,
    flows: &MovingFlows,
    control: Option<&mut Control>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let removed = source.remove().await;
    report.warnings.extend(flows.reconcile().await);
    if let Some(control) = control {
        let moved = Moved {
            id: &source.facts.id,
            flows: flows.looks(),
            tunnel: flows.tunnel,
        };
        let bypassed = moved.bypass(control).await;
        report.bypassed = bypassed.flows;
        report.warnings.extend(bypassed.warnings);
    }
    let id = source.facts.id.clone();
    let left = spawn_blocking(move || guests::leave(&Dirs::default(), &id)).await;
    if let Err(error) = left.map_err(anyhow::Error::from).and_then(|left| Ok(left?)) {
        tracing::warn!("tunnels may still let packets to the container's address pass: {error:#}");
    }
    match source.left_behind(flows.tunnel).await {
        Ok(0) => {}
        Ok(behind) => report.warnings.push(format!(
            "{behind} connections that began during the cut-over did not move"
        )),
        Err(error) => tracing::debug!("{error:#}"),
    }
    removed?;
    for bind in binds::sent(&source.facts.binds) {
        report.notes.push(format!(
            "{} was sent, and is still here as it was then: remove it if nothing else needs it",
            bind.source
        ));
    }
    let parted = source.part_from_service().await;
    if let Some((name, how)) = parted.context("its service could not be stopped")? {
        let (done, back) = match how {
            Parted::Masked => ("masked", "unmask"),
            Parted::Disabled => ("disabled", "enable"),
        };
        report.notes.push(format!(
            "{name} went with it: here it is stopped and {done} (`systemctl {back} {name}` takes that \
             back; so does a migration to here)"
        ));
    }
    Ok(())
}
