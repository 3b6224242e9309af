//! `resolve`: decides a migration whose destination is gone for good.

use common::journal::{Journal, Progress};
use common::protocol::Fate;
use common::transaction::SourceStep;

use super::recover::print;
use crate::cli::Keep;
use crate::lock;
use crate::recovery::{self, Recovered};

/// Ends a migration as the operator decided, because its destination cannot say what became of it.
pub(super) async fn resolve(prefix: &str, keep: Keep) -> anyhow::Result<u8> {
    let journal = Journal::of("client");
    let record = journal.find(prefix)?;
    let Some(_lock) = lock::container(&record.container.id)? else {
        anyhow::bail!(
            "another agent-client is working on {}",
            record.container.name
        );
    };
    // Read again: whoever held the lock until now may have finished or undone it.
    let record = journal.find(record.migration.as_str())?;
    anyhow::ensure!(
        record.progress == Progress::Committing
            || record.progress == Progress::Committed && recovery::unsettled(&record),
        "there is nothing to decide about {}: it is {}{}",
        record.migration,
        common::status::progress(&record),
        match record.progress {
            Progress::UnderWay => "; `agent-client recover` undoes it",
            _ => "",
        }
    );
    let (step, why) = match recovery::ask(&record).await {
        Ok(Fate::OnDisk) => (
            SourceStep::Remove,
            "the destination says that it runs there",
        ),
        Ok(Fate::RolledBack) => (SourceStep::Thaw, "the destination says that it was undone"),
        Ok(Fate::UnderWay) => anyhow::bail!(
            "{} is still working on it: run `agent-client recover` in a moment",
            record.peer
        ),
        unknown => {
            match unknown {
                Err(error) => eprintln!("{} cannot be asked: {error:#}", record.peer),
                Ok(Fate::Committed) => eprintln!(
                    "{} says that it runs there, but not that all is on disk there",
                    record.peer
                ),
                Ok(_) => eprintln!("{} has no record of it", record.peer),
            }
            let step = match keep {
                Keep::Source => SourceStep::Thaw,
                Keep::Destination => SourceStep::Remove,
            };
            (step, "resolved by operator")
        }
    };
    let copy = recovery::find(&record).await?;
    // A container that is running has come back since; it is not the copy that was left behind.
    let step =
        Some(step).filter(|step| *step == SourceStep::Thaw || copy.stands_still().unwrap_or(false));
    let recovered = Recovered {
        end: recovery::carry_out(&journal, record.clone(), copy, step, why).await?,
        record,
    };
    print(None, &[recovered]);
    println!("  {why}");
    Ok(0)
}
