//! What both hosts check before anything is changed.

use std::path::Path;

use common::container::ContainerFacts;
use common::container::binds::{Bind, Shared};
use common::container::podman;
use common::container::podman::inspect::Local;
use common::container::ports::{MOST_RANGES, ranges};
use common::host::HostFacts;
use common::net::foreign_firewalls::{self, Part};
use common::preflight::{self, Check, Side, Verdict};
use common::protocol::{Reply, Request};
use tokio::task::spawn_blocking;

use super::estimate;
use crate::address::Address;
use crate::choices::Choices;
use crate::control::{Control, unexpected};

/// The container that is meant, and this host.
pub(super) struct Found {
    pub(super) facts: ContainerFacts,
    pub(super) local: Local,
    pub(super) host: HostFacts,
}

impl Found {
    /// Finds a container by the name or id that the user gave.
    pub(super) async fn look(container: &str, choices: &Choices) -> anyhow::Result<Self> {
        let (inspected, host) =
            tokio::join!(podman::inspect::inspect(container), HostFacts::gather());
        let (mut facts, local) = inspected?;
        let choices = choices.clone();
        let facts = spawn_blocking(move || choices.apply(&mut facts).map(|()| facts)).await??;
        Ok(Found { facts, local, host })
    }

    /// Marks those bind mounts that both hosts seem to have, so that the destination can be sure of it.
    /// Where the server does not let root do that, what the destination has seen must do.
    pub(super) async fn mark_shared(&mut self) -> anyhow::Result<()> {
        let mut binds = std::mem::take(&mut self.facts.binds);
        let mark = move || {
            let kept = |bind: &&mut Bind| bind.shared.is_some() && !bind.is_sent();
            for bind in binds.iter_mut().filter(kept) {
                let path = Path::new(&bind.source);
                if let Err(error) = Shared::mark(path) {
                    tracing::debug!("{}: {error}", path.display());
                }
                bind.shared = Shared::at(path);
            }
            binds
        };
        self.facts.binds = spawn_blocking(mark).await?;
        Ok(())
    }

    /// This host's checks.
    pub(super) async fn check_here(&self, forward_new: bool) -> Vec<Check> {
        let addresses = self.facts.addresses();
        let look = move || foreign_firewalls::obstacles(Part::Source, &addresses, forward_new);
        let obstacles = spawn_blocking(look).await;
        let mut checks = preflight::source(&self.facts, &self.host);
        checks.extend(preflight::firewalls(
            Side::Source,
            &self.facts,
            &obstacles.unwrap_or_default(),
        ));
        checks
    }

    /// The destination's checks, and how much memory it has; 0 if that is not known.
    pub(super) async fn check_there(
        &self,
        forward_new: bool,
        control: &mut Control,
    ) -> anyhow::Result<(Vec<Check>, u64)> {
        let request = Request::Check {
            container: Box::new(self.facts.clone()),
            source: Box::new(self.host.clone()),
            forward_new,
        };
        match control.ask(request).await? {
            Reply::Checked {
                checks,
                available_bytes,
            } => Ok((checks, available_bytes)),
            other => Err(unexpected(&other).into()),
        }
    }
}

/// Asks both hosts; returns what holds and what does not.
pub(crate) async fn check(
    container: &str,
    destination: &Address,
    choices: &Choices,
) -> anyhow::Result<Vec<Check>> {
    let found = Found::look(container, choices).await?;
    let mut checks = found.check_here(false).await;
    checks.push(estimate::of(&found.facts, &found.host, destination).0);
    if ranges(&found.facts.ports).len() > MOST_RANGES {
        // Too many to ask there.
        return Ok(checks);
    }
    let mut control = Control::connect(destination).await?;
    checks.extend(found.check_there(false, &mut control).await?.0);
    Ok(checks)
}

/// What is known of a container before it moves, and of the hosts that it could move to.
pub(crate) struct Survey {
    pub(crate) facts: ContainerFacts,
    /// In the order in which they were asked.
    pub(crate) destinations: Vec<SurveyedDestination>,
}

/// What one destination said.
pub(crate) struct SurveyedDestination {
    /// Why the container cannot move there, if it cannot.
    pub(crate) refusal: Option<String>,
    pub(crate) estimated_freeze_ms: u64,
    /// How much memory it has; 0 if that is not known.
    pub(crate) available_bytes: u64,
}

/// Asks both hosts about a container, for each of these destinations. Changes nothing.
///
/// # Errors
/// If the container cannot be looked at, or a connection ends.
pub(crate) async fn survey(
    container: &str,
    destinations: &mut [(Address, Control)],
    forward_new: bool,
) -> anyhow::Result<Survey> {
    let found = Found::look(container, &Choices::default()).await?;
    let here = refusal(&found.check_here(forward_new).await);
    let too_many_ports = ranges(&found.facts.ports).len() > MOST_RANGES;
    let mut surveyed = Vec::new();
    for (address, control) in destinations {
        let (checks, available_bytes) = match too_many_ports {
            true => (Vec::new(), 0),
            false => found.check_there(forward_new, control).await?,
        };
        surveyed.push(SurveyedDestination {
            refusal: here.clone().or_else(|| refusal(&checks)),
            estimated_freeze_ms: estimate::of(&found.facts, &found.host, address).1,
            available_bytes,
        });
    }
    Ok(Survey {
        facts: found.facts,
        destinations: surveyed,
    })
}

/// What prevents the migration, as a sentence; `None` if nothing does.
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
