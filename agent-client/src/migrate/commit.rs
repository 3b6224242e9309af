//! The point of no return.

use std::time::{Duration, Instant};

use common::journal::Progress;
use common::protocol::{MigrationId, Reply, Request};
use common::transaction::{self, SourceStep};

use super::failure::Failure;
use crate::address::Address;
use crate::control::{Control, RequestError, ask_fate, unexpected};

/// For how long, and how often, the destination is asked what became of a commit.
const FATE_LIMIT: Duration = Duration::from_secs(15);
const FATE_PAUSE: Duration = Duration::from_secs(2);

/// Has the destination commit; not cancellable. Returns a warning, if there is one.
///
/// The record already says `committing`: from then on only the destination's word decides where the
/// container runs.
pub(super) async fn commit(
    control: &mut Control,
    destination: &Address,
    migration: &MigrationId,
) -> Result<Option<String>, Failure> {
    match control.insist(Request::Commit).await {
        Ok(Reply::Committed) => Ok(None),
        Ok(other) => Err(Failure::Unknown(unexpected(&other).into())),
        Err(error) => learn_outcome(destination, migration, error).await.map(Some),
    }
}

/// The answer to `Commit` did not come: asks until the destination says what became of the commit.
async fn learn_outcome(
    destination: &Address,
    migration: &MigrationId,
    lost: RequestError,
) -> Result<String, Failure> {
    let deadline = Instant::now() + FATE_LIMIT;
    while Instant::now() < deadline {
        tokio::time::sleep(FATE_PAUSE).await;
        let left = deadline.saturating_duration_since(Instant::now());
        let asked = ask_fate(destination, migration);
        let answer = match tokio::time::timeout(left, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::warn!("cannot ask the destination: {error:#}");
                continue;
            }
            Err(_) => break,
        };
        match transaction::source(Progress::Committing, Some(answer), true) {
            Some(SourceStep::Remove) => {
                return Ok(format!(
                    "the commit was not answered properly, but the destination has committed: {lost}"
                ));
            }
            Some(SourceStep::Thaw) => {
                return Err(Failure::Failed(anyhow::anyhow!(
                    "the destination did not commit: {lost}"
                )));
            }
            Some(SourceStep::AskOperator) => {
                return Err(Failure::Unknown(anyhow::anyhow!(
                    "{lost}; {destination} has no record of this migration. The copy here stays frozen \
                     until you have found out where the container runs"
                )));
            }
            Some(SourceStep::Ask) | None => {}
        }
    }
    Err(Failure::Unknown(anyhow::anyhow!(
        "{lost}; it is not known whether the container runs on {destination}. The copy here \
                  stays frozen so that there are never two. Once {destination} can be reached again, \
         run `agent-client recover` here: it asks and then finishes or undoes this migration. If it \
         never will be, decide with `agent-client resolve {migration}`"
    )))
}
