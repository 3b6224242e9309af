//! What both hosts say before anything is changed.

use common::container::ContainerFacts;
use common::container::podman;
use common::host::HostFacts;
use common::net::forward::{self, Part};
use common::preflight::{self, Check, Side, Verdict};
use common::protocol::{Reply, Request};
use tokio::task::spawn_blocking;

use crate::control::{Control, unexpected};

/// The container that is meant, with where it is, and this host.
pub(super) async fn look(
    container: &str,
) -> anyhow::Result<(ContainerFacts, podman::Placement, HostFacts)> {
    let listed = podman::list().await?;
    let found = podman::resolve(&listed, container)?;
    let (inspected, host) = tokio::join!(podman::inspect(&found.id), HostFacts::gather());
    let (facts, placement) = inspected?;
    Ok((facts, placement, host))
}

/// What this host says.
pub(super) async fn here(
    facts: &ContainerFacts,
    host: &HostFacts,
    forward_new: bool,
) -> Vec<Check> {
    let addresses = facts.addresses();
    let look = move || forward::obstacles(Part::Source, &addresses, forward_new);
    let obstacles = spawn_blocking(look).await;
    let mut checks = preflight::source(facts, host);
    checks.extend(preflight::firewalls(
        Side::Source,
        &obstacles.unwrap_or_default(),
    ));
    checks
}

/// What the destination says.
pub(super) async fn there(
    facts: &ContainerFacts,
    host: &HostFacts,
    forward_new: bool,
    control: &mut Control,
) -> anyhow::Result<Vec<Check>> {
    let request = Request::Check {
        container: Box::new(facts.clone()),
        source: Box::new(host.clone()),
        forward_new,
    };
    match control.ask(request).await? {
        Reply::Checked { checks } => Ok(checks),
        other => Err(unexpected(&other).into()),
    }
}

/// What stands in the way, in a sentence; nothing if nothing does.
pub(super) fn refusal(checks: &[Check]) -> Option<String> {
    let failed: Vec<String> = checks
        .iter()
        .filter(|c| c.verdict == Verdict::Failed)
        .map(|check| {
            let side = match check.host {
                Side::Source => "here",
                Side::Destination => "on the destination",
            };
            format!("{} {side}: {}", check.name, check.detail)
        })
        .collect();
    (!failed.is_empty()).then(|| failed.join("\n"))
}
