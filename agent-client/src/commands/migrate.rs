//! `migrate`: moves a container, and says how it went.

use std::time::Duration;

use common::report::{Outcome, Report};
use common::units;
use tokio_util::sync::CancellationToken;

use crate::address::Address;
use crate::choices::Choices;
use crate::cli::USAGE;
use crate::format::Format;
use crate::interactive;
use crate::migrate::Migration;
use crate::progress::{Lines, Observer, Silent};
use crate::several::{self, Which};

/// How a container migrates.
pub(super) struct Options {
    pub(super) yes: bool,
    pub(super) dry_run: bool,
    pub(super) max_freeze: Duration,
    pub(super) forward_new: bool,
    pub(super) choices: Choices,
    pub(super) format: Format,
}

pub(super) async fn migrate(container: &str, to: Address, options: Options) -> anyhow::Result<u8> {
    let Options {
        yes,
        dry_run,
        max_freeze,
        forward_new,
        choices,
        format,
    } = options;
    let cancel = CancellationToken::new();
    cancel_on_signals(cancel.clone())?;
    let observer: &dyn Observer = match format {
        Format::Text => &Lines::new(),
        Format::Json => &Silent,
    };
    let plan = to.clone();
    let (report, usage) = Migration::new(to, observer, cancel)
        .max_freeze(max_freeze)
        .forward_new(forward_new)
        .choices(choices)
        .run(container, dry_run, &move |facts, checks| {
            yes || interactive::confirm(facts, checks, &plan)
        })
        .await;
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Text => summarize(&report),
    }
    Ok(if usage {
        USAGE
    } else {
        report.outcome.exit_status()
    })
}

/// Moves several containers, as [`migrate`] moves one.
pub(super) async fn migrate_all(
    which: Which,
    destinations: Vec<Address>,
    options: several::Options,
) -> anyhow::Result<u8> {
    let cancel = CancellationToken::new();
    cancel_on_signals(cancel.clone())?;
    several::move_all(which, destinations, &options, cancel, &summarize).await
}

/// Ctrl-C and SIGTERM roll back. A second one changes nothing: there is no faster way out that
/// loses nothing.
fn cancel_on_signals(cancel: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            eprintln!("cancelling: rolling back, unless the destination has already taken over");
            cancel.cancel();
        }
    });
    Ok(())
}

fn summarize(report: &Report) {
    for note in &report.notes {
        eprintln!("note: {note}");
    }
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    let name = report
        .container
        .as_ref()
        .map_or("the container", |c| c.name.as_str());
    let error = report.error.as_deref().unwrap_or("no reason known");
    match report.outcome {
        Outcome::Moved => {
            let total: u64 = report.phases.iter().map(|p| p.duration_ms).sum();
            println!(
                "{name} runs on {}: {} in all, {} frozen (estimated: {}), {} sent, {} TCP and {} UDP flows moved",
                report.destination,
                units::milliseconds(total),
                units::milliseconds(report.freeze_ms),
                units::milliseconds(report.estimated_freeze_ms),
                units::bytes(report.sent_bytes),
                report.flows.tcp,
                report.flows.udp
            );
            if !report.forwarded_ports.is_empty() {
                println!(
                    "new connections to {} here are forwarded there until `agent-client forward remove {name}`",
                    report.forwarded_ports.join(", ")
                );
            }
        }
        Outcome::Possible => println!("{name} could move to {}", report.destination),
        Outcome::Failed if report.freeze_ms > 0 => eprintln!(
            "agent-client: {error}\n{name} keeps running here; it was frozen for {}",
            units::milliseconds(report.freeze_ms)
        ),
        Outcome::Failed if report.container.is_some() => {
            eprintln!("agent-client: {error}\n{name} keeps running here, undisturbed");
        }
        Outcome::Failed => eprintln!("agent-client: {error}"),
        Outcome::Refused => eprintln!("agent-client: {name} cannot move: {error}"),
        Outcome::Unknown => eprintln!("agent-client: an operator must look: {error}"),
    }
}
