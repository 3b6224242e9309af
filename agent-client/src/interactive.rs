//! Questions on a terminal.

use anyhow::Context;
use common::container::{ContainerFacts, podman};
use common::paths;
use common::preflight::{Check, Verdict};
use common::units;
use dialoguer::theme::ColorfulTheme;
use dialoguer::{Confirm, Input, Select};
use trust::Peers;

use crate::address::Address;
use crate::migrate::OUTAGE;

/// Asks which container goes where.
pub(crate) async fn ask() -> anyhow::Result<(String, Address)> {
    let mut running = Vec::new();
    let listed = podman::list::list().await?;
    let memory = podman::inspect::memory(&listed).await?;
    for listed in listed {
        if let Some(memory) = memory.get(&listed.id) {
            running.push((listed, *memory));
        }
    }
    anyhow::ensure!(
        !running.is_empty(),
        "no container is running on this host (`podman ps`)"
    );
    let lines: Vec<String> = running
        .iter()
        .map(|(c, memory)| {
            format!(
                "{:<20} {:<32} {:<28} {}",
                c.name,
                c.image,
                if c.ports.is_empty() { "-" } else { &c.ports },
                units::bytes(*memory)
            )
        })
        .collect();
    let theme = ColorfulTheme::default();
    let chosen = Select::with_theme(&theme)
        .with_prompt("Which container")
        .items(&lines)
        .default(0)
        .interact()
        .context("no container was chosen")?;
    Ok((running[chosen].0.id.clone(), destination(&theme)?))
}

fn destination(theme: &ColorfulTheme) -> anyhow::Result<Address> {
    let mut known: Vec<String> = Peers::open(&paths::client_dir())?
        .list()?
        .into_iter()
        .filter_map(|p| p.address)
        .collect();
    anyhow::ensure!(
        !known.is_empty(),
        "this host is not paired with any other: run `agent-server invite` there and \
         `agent-client pair HOST --token TOKEN` here"
    );
    known.push("another address".into());
    let chosen = Select::with_theme(theme)
        .with_prompt("Where to")
        .items(&known)
        .default(0)
        .interact()
        .context("no destination was chosen")?;
    let text = if chosen == known.len() - 1 {
        Input::with_theme(theme)
            .with_prompt("HOST[:PORT]")
            .validate_with(|text: &String| text.parse::<Address>().map(drop))
            .interact_text()?
    } else {
        known.swap_remove(chosen)
    };
    text.parse().map_err(anyhow::Error::msg)
}

/// Shows what is about to happen and asks whether to go on.
pub(crate) fn confirm(container: &ContainerFacts, checks: &[Check], to: &Address) -> bool {
    eprintln!("\n{} moves to {to}", container.name);
    eprintln!("  image    {}", container.image_name);
    eprintln!("  memory   {}", units::bytes(container.memory_bytes));
    for port in &container.ports {
        eprintln!("  port     {port}");
    }
    for volume in &container.volumes {
        eprintln!("  volume   {} at {}", volume.name, volume.destination);
    }
    for check in checks.iter().filter(|c| c.name == OUTAGE) {
        eprintln!("  outage   {}", check.detail);
    }
    for check in checks.iter().filter(|c| c.verdict == Verdict::Warning) {
        eprintln!("  note     {}: {}", check.name, check.detail);
    }
    go_on()
}

/// Asks whether to go on; nobody's answer is no.
pub(crate) fn go_on() -> bool {
    Confirm::with_theme(&ColorfulTheme::default())
        .with_prompt("Go on?")
        .default(true)
        .interact()
        .unwrap_or(false)
}
