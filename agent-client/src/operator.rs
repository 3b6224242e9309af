//! What an operator decides about a migration: `recover`, `resolve` and `cancel`.

use std::time::{Duration, Instant};

use anyhow::Context;
use common::journal::{Journal, MigrationRecord, Progress};
use common::protocol::{MigrationId, Outcome};
use common::report;
use common::transaction::SourceStep;
use nix::sys::signal::{Signal, kill};

use crate::recovery::{self, End, Settled};
use crate::{cli, lock};

/// How long a migration may take to be undone once it was told to.
const CANCEL_LIMIT: Duration = Duration::from_secs(90);

/// Pause between looks whether it is.
const POLL: Duration = Duration::from_millis(50);

/// Exit status if something stays open.
const OPEN: u8 = 3;

/// On which host a container is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Keep {
    /// Here: the frozen copy runs on.
    Source,
    /// There: the frozen copy here is removed.
    Destination,
}

/// Finishes or undoes all migrations that earlier commands left, or the one whose id begins so.
pub(crate) async fn recover(prefix: Option<&str>, format: cli::Format) -> anyhow::Result<u8> {
    let only = match prefix {
        Some(prefix) => Some(Journal::of("client").find(prefix)?),
        None => None,
    };
    let settled = recovery::recover(only.as_ref().map(|r| &r.migration)).await?;
    match format {
        cli::Format::Text => print(only.as_ref(), &settled),
        cli::Format::Json => println!("{}", serde_json::Value::from_iter(settled.iter().map(json))),
    }
    let open = settled.iter().any(|s| matches!(s.end, End::Open(_)));
    Ok(if open { OPEN } else { 0 })
}

fn print(only: Option<&MigrationRecord>, settled: &[Settled]) {
    if settled.is_empty() {
        match only {
            Some(record) => println!("{}: {}", head(record), common::status::progress(record)),
            None => println!("nothing was left open"),
        }
    }
    for Settled { record, end } in settled {
        let head = head(record);
        let peer = &record.peer;
        match end {
            End::Undone => println!("{head}: undone; the container runs here"),
            End::Finished => println!("{head}: finished; the container runs on {peer}"),
            End::Carried => println!("{head}: under way; another agent-client carries it on"),
            End::Open(error) => println!("{head}: OPEN: {error:#}\n{}", advice(record)),
        }
    }
}

fn json(Settled { record, end }: &Settled) -> serde_json::Value {
    let (word, error) = match end {
        End::Undone => ("undone", None),
        End::Finished => ("finished", None),
        End::Carried => ("under_way", None),
        End::Open(error) => ("open", Some(format!("{error:#}"))),
    };
    serde_json::json!({
        "migration_id": record.migration, "container": record.container,
        "destination": record.peer, "end": word, "error": error,
    })
}

fn head(record: &MigrationRecord) -> String {
    let MigrationRecord {
        migration,
        container,
        peer,
        ..
    } = record;
    format!("{migration}  {} to {peer}", container.name)
}

fn advice(record: &MigrationRecord) -> String {
    let (peer, id) = (&record.peer, &record.migration);
    if record.progress != Progress::Committing {
        return "  Mend that, and run `agent-client recover` again.".into();
    }
    format!(
        "  When {peer} can be reached again, run `agent-client recover` again. If it never will \
         be:\n  agent-client resolve {id} --keep source        the container runs on here\n  \
         agent-client resolve {id} --keep destination   the copy here is removed\n  Only if you \
         know that it does not run there may you keep it here."
    )
}

/// Ends a migration whose destination cannot say what became of it, as the operator says.
pub(crate) async fn resolve(prefix: &str, keep: Keep) -> anyhow::Result<u8> {
    let journal = Journal::of("client");
    let record = journal.find(prefix)?;
    let Some(_lock) = lock::container(&record.container.id)? else {
        anyhow::bail!("another agent-client works on {}", record.container.name);
    };
    // Read again: it may have been settled while the lock was another's.
    let record = journal.find(record.migration.as_str())?;
    anyhow::ensure!(
        record.progress == Progress::Committing,
        "there is nothing to decide about {}: it is {}{}",
        record.migration,
        common::status::progress(&record),
        match record.progress {
            Progress::UnderWay => "; `agent-client recover` undoes it",
            _ => "",
        }
    );
    let (step, why) = match recovery::ask(&record).await {
        Ok(Outcome::Committed) => (
            SourceStep::Remove,
            "the destination says that it runs there",
        ),
        Ok(Outcome::RolledBack) => (SourceStep::Thaw, "the destination says that it is undone"),
        Ok(Outcome::UnderWay) => anyhow::bail!(
            "{} is still at work on it: run `agent-client recover` in a moment",
            record.peer
        ),
        unknown => {
            match unknown {
                Err(error) => eprintln!("{} cannot be asked: {error:#}", record.peer),
                Ok(_) => eprintln!("{} has no record of it", record.peer),
            }
            let step = match keep {
                Keep::Source => SourceStep::Thaw,
                Keep::Destination => SourceStep::Remove,
            };
            (step, "resolved by operator")
        }
    };
    let source = recovery::find(&record).await?;
    // One that runs has come back since, and is not the copy that was left behind.
    let step = Some(step).filter(|step| {
        *step == SourceStep::Thaw || recovery::is_frozen(source.as_ref()).unwrap_or(false)
    });
    let settled = Settled {
        end: recovery::carry_out(&journal, record.clone(), source, step, why).await?,
        record,
    };
    print(None, &[settled]);
    println!("  {why}");
    Ok(0)
}

/// Has the command that carries a migration on undo it, and waits until it has.
pub(crate) async fn cancel(prefix: &str) -> anyhow::Result<u8> {
    let journal = Journal::of("client");
    let record = journal.find(prefix)?;
    let id = &record.migration;
    let carrier = lock::carrier(&record.container.id, id);
    match (record.progress, carrier) {
        // It says so on disk a moment before it sends the commit, and knows which it is.
        (Progress::UnderWay | Progress::Committing, Some(pid)) => {
            kill(pid, Signal::SIGTERM).with_context(|| format!("process {pid}"))?;
        }
        (Progress::UnderWay, None) => anyhow::bail!(
            "no agent-client carries {id} on any more: `agent-client recover` undoes it"
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
            eprintln!("{id} could not be cancelled any more: the commit was on its way");
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
