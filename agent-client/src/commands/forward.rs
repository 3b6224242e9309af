//! `forward`: lists and removes the forwarding of ports to containers that have moved away.

use anyhow::Context;
use common::container::ports::ranges;
use common::net::flows::port_forward::{Forward, ForwardState};
use common::net::flows::port_forwards;
use common::net::state::Dirs;
use common::net::tunnel::status;
use serde_json::json;

use crate::cli::ForwardCommand;
use crate::format::Format;

pub(super) fn forward(command: ForwardCommand) -> anyhow::Result<u8> {
    match command {
        ForwardCommand::List { format } => list(format)?,
        ForwardCommand::Remove { container } => remove(&container)?,
    }
    Ok(0)
}

/// Prints the forwards of this host.
fn list(format: Format) -> anyhow::Result<()> {
    let dirs = Dirs::default();
    let tunnels = status::list(&dirs)?;
    let found = port_forwards::list(&dirs)?
        .into_iter()
        .map(|(index, forward)| {
            let tunnel = tunnels.iter().find(|t| t.record.index == index);
            (forward, tunnel)
        });
    match format {
        Format::Text => found.for_each(|(forward, tunnel)| {
            let to = tunnel.map_or("nowhere".into(), |t| t.record.endpoint.ip().to_string());
            let what = match (forward.state, tunnel.is_some_and(|t| t.alive)) {
                (ForwardState::Prepared, _) => "starts when its migration ends",
                (ForwardState::Lent, _) => {
                    "ends when the container has returned, which is under way"
                }
                (ForwardState::Active, true) => "active",
                (ForwardState::Active, false) => "the tunnel is dead",
            };
            println!(
                "{}\t{}\tto {to}\t{what}",
                forward.container.name,
                ports(&forward)
            );
        }),
        Format::Json => {
            let list: Vec<_> = found
                .map(|(forward, tunnel)| {
                    json!({
                        "forward": forward,
                        "interface": tunnel.map(|t| t.record.index.interface()),
                        "endpoint": tunnel.map(|t| t.record.endpoint),
                        "alive": tunnel.is_some_and(|t| t.alive),
                    })
                })
                .collect();
            println!("{}", serde_json::to_string_pretty(&list)?);
        }
    }
    Ok(())
}

/// Ends the forward for a container.
fn remove(given: &str) -> anyhow::Result<()> {
    let dirs = Dirs::default();
    let all = port_forwards::list(&dirs)?;
    let mut fits: Vec<&Forward> = all.iter().map(|(_, forward)| forward).collect();
    fits.retain(|f| f.container.name == given || f.container.id.starts_with(given));
    let [forward] = fits[..] else {
        anyhow::bail!(
            "{} forwards here fit `{given}` (`agent-client forward list`)",
            if fits.is_empty() { "no" } else { "several" }
        );
    };
    anyhow::ensure!(
        forward.state != ForwardState::Prepared,
        "{} is still moving: try again when it has moved, or `agent-client cancel` its migration",
        forward.container.name
    );
    let removed = port_forwards::remove(&dirs, &forward.container.id)?;
    let removed = removed.context("another command has just removed it")?;
    eprintln!(
        "new connections to {} here are no longer forwarded to {}",
        ports(&removed),
        removed.container.name
    );
    Ok(())
}

fn ports(forward: &Forward) -> String {
    let ports = ranges(&forward.ports);
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    ports.join(", ")
}
