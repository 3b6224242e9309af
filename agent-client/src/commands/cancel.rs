//! `cancel`: has a running migration undone.

use std::time::{Duration, Instant};

use anyhow::Context;
use common::journal::{Journal, MigrationRecord, Progress};
use common::protocol::MigrationId;
use common::report;
use nix::sys::signal::{Signal, kill};

use super::recover::head;
use crate::lock;

/// Longest wait for a cancelled migration to be undone.
const CANCEL_LIMIT: Duration = Duration::from_secs(90);

/// Pause between checks whether it is.
const POLL: Duration = Duration::from_millis(50);

/// Tells the command that runs the migration to undo it, and waits until it has.
pub(super) async fn cancel(prefix: &str) -> anyhow::Result<u8> {
    let journal = Journal::of("client");
    let record = journal.find(prefix)?;
    let id = &record.migration;
    let carrier = lock::carrier(&record.container.id, id);
    match (record.progress, carrier) {
        // `Committing` is on disk a moment before the commit is sent. Only that command knows
        // whether it was.
        (Progress::UnderWay | Progress::Committing, Some(pid)) => {
            kill(pid, Signal::SIGTERM).with_context(|| format!("process {pid}"))?;
        }
        (Progress::UnderWay, None) => anyhow::bail!(
            "no agent-client is working on {id} any more: `agent-client recover` undoes it"
        ),
        (Progress::Committing, None) => anyhow::bail!(
            "{id} cannot be cancelled any more: the commit may have reached {}; `agent-client \
             recover` asks",
            record.peer
        ),
        (Progress::Committed | Progress::RolledBack, _) => anyhow::bail!(
            "{id} cannot be cancelled any more: it is {}",
            common::status::progress(&record)
        ),
    }
    let end = outcome_of_cancel(&journal, &record.container.id, id).await?;
    println!("{}: {}", head(&end), common::status::progress(&end));
    Ok(match end.progress {
        Progress::RolledBack => 0,
        Progress::Committed => {
            eprintln!("{id} could no longer be cancelled: the commit had already been sent");
            1
        }
        Progress::UnderWay | Progress::Committing => report::Outcome::Unknown.exit_status(),
    })
}

async fn outcome_of_cancel(
    journal: &Journal,
    container: &str,
    id: &MigrationId,
) -> anyhow::Result<MigrationRecord> {
    let deadline = Instant::now() + CANCEL_LIMIT;
    while lock::carrier(container, id).is_some() && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
    Ok(journal.find(id.as_str())?)
}
