//! The outage: since when the container has been frozen, how long it may be, and what happens in
//! parallel meanwhile.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::container::checkpoint::dump::DumpError;
use common::journal::Progress;
use common::protocol::{Reply, Request, StreamDigest};
use common::report;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::checkpoint::{Begun, Stream};
use super::record::Record;
use crate::control::{Control, unexpected};
use crate::source::{Ahead, Complete, Source};

/// How long Podman waits for the container that it restores, from when it has started conmon
/// (`ContainerCreateTimeout` in libpod/define/config.go).
const PODMAN_WAITS: Duration = Duration::from_secs(240);

/// An outage for which less time than this is left is not begun.
const SHORTEST: Duration = Duration::from_secs(30);

/// The outage of one migration, and its clock.
pub(super) struct Outage {
    /// Cancels the whole migration, on behalf of the user or of the clock.
    pub(super) cancel: CancellationToken,
    limit: Duration,
    /// Since when Podman waits at the destination.
    staged_at: Option<Instant>,
    frozen_at: Option<Instant>,
    /// Cancelled when the container has been frozen for too long.
    overdue: CancellationToken,
}

impl Outage {
    /// An outage without a limit, of the migration that `cancel` cancels.
    pub(super) fn of(cancel: CancellationToken) -> Self {
        Outage {
            cancel,
            limit: Duration::MAX,
            staged_at: None,
            frozen_at: None,
            overdue: CancellationToken::new(),
        }
    }

    /// Sets how long it may last.
    pub(super) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Podman begins to prepare the destination.
    pub(super) fn staged(&mut self) {
        self.staged_at = Some(Instant::now());
    }

    /// How long Podman at the destination still waits for the container.
    fn patience(&self) -> Duration {
        let waits = self.staged_at.map(|at| at.elapsed()).unwrap_or_default();
        PODMAN_WAITS.saturating_sub(waits)
    }

    /// Fails if Podman at the destination will not wait until the container is restored there.
    ///
    /// # Errors
    /// In words for the user.
    pub(super) fn is_in_time(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.patience() > SHORTEST,
            "what was sent after the destination was prepared took so long that Podman there is about to give \
             up, which it does after {} s: try again when the link is faster or less is being written",
            PODMAN_WAITS.as_secs()
        );
        Ok(())
    }

    /// Starts the clock, which cancels the migration once the container has been frozen for too
    /// long. After the commit has been sent, that has no effect.
    pub(super) fn begin(&mut self) {
        self.frozen_at = Some(Instant::now());
        self.limit = self.limit.min(self.patience());
        let limit = self.limit;
        let (overdue, cancel) = (self.overdue.clone(), self.cancel.clone());
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            overdue.cancel();
            cancel.cancel();
        });
    }

    /// How long the container has been frozen, in milliseconds; 0 if it is not frozen.
    pub(super) fn frozen_ms(&self) -> u64 {
        self.frozen_at
            .map_or(0, |at| at.elapsed().as_millis() as u64)
    }

    /// Fails if the migration was cancelled.
    pub(super) fn stop_if_cancelled(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.cancel.is_cancelled(), "cancelled");
        Ok(())
    }

    /// Adds to `error`, which ended the migration, that the outage took too long, if it did.
    pub(super) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match self.overdue.is_cancelled() {
            true => error.context(format!(
                "not committed within the {} ms that --max-freeze-ms, or Podman at the destination, allows",
                self.limit.as_millis()
            )),
            false => error,
        }
    }
}

/// Of memory that went ahead: what its stream was, and a word for the report.
type Sent = (StreamDigest, report::Memory);

/// In parallel: CRIU writes its images of the container, they are sent as they grow, and `follow`
/// moves the flows that began late. If `follow` fails, the stream ends.
///
/// What has changed of memory that went `ahead` is sent meanwhile, and the dump leaves memory of that kind out.
pub(super) async fn dump(
    source: &Source,
    stream: Stream,
    ahead: Option<Ahead>,
    cancel: &CancellationToken,
    follow: impl Future<Output = anyhow::Result<()>>,
) -> (
    anyhow::Result<Result<Option<Sent>, DumpError>>,
    anyhow::Result<()>,
    Begun,
) {
    let (dumping, ended) = mpsc::channel();
    let dump = async {
        let dumped = match ahead {
            Some(ahead) => dump_lazily(source, ahead).await,
            None => source
                .dump(false, cancel)
                .await
                .map(|dumped| dumped.map(|()| None)),
        };
        drop(dumping);
        dumped
    };
    let follow = async {
        let followed = follow.await;
        if followed.is_err() {
            stream.cancel.cancel();
        }
        followed
    };
    let (dumped, payload, followed) =
        tokio::join!(dump, source.ship_dump(stream.sender, ended), follow);
    let unsent = stream.cancel.drop_guard();
    (dumped, followed, Begun { unsent, payload })
}

/// If one of both fails, the other one ends. The outer error is that of the memory.
async fn dump_lazily(
    source: &Source,
    ahead: Ahead,
) -> anyhow::Result<Result<Option<Sent>, DumpError>> {
    let ahead = ahead.before_the_dump().await?;
    let cancel = ahead.cancel.clone();
    let dump = async {
        let dumped = source.dump(true, &cancel).await;
        if !matches!(dumped, Ok(Ok(()))) {
            cancel.cancel();
        }
        dumped
    };
    let send = async {
        let sent = ahead.finish().await;
        // Before the dump is ended because of it.
        let first = sent.is_err() && !cancel.is_cancelled();
        if first {
            cancel.cancel();
        }
        (sent, first)
    };
    match tokio::join!(dump, send) {
        (_, (Err(error), true)) => Err(error),
        (Err(error), _) => Err(error),
        (Ok(Err(error)), _) => Ok(Err(error)),
        (Ok(Ok(())), (sent, _)) => {
            let Complete {
                digest,
                memory,
                followed,
            } = sent?;
            // Nobody waits for what that takes.
            spawn_blocking(move || drop(followed));
            Ok(Ok(Some((digest, memory))))
        }
    }
}

/// In parallel: the destination restores the container, and this host records that it may run there
/// from now on. The record is on disk by the time the commit needs it, and nothing waits for the
/// disk. Returns what is lost, in sentences.
pub(super) async fn restore(
    source: &Source,
    record: &mut Record,
    control: &mut Control,
) -> anyhow::Result<Vec<String>> {
    let (recorded, kept_down, restored) = tokio::join!(
        record.write_later(Progress::Committing),
        source.keep_service_down(),
        control.ask(Request::Restore)
    );
    let warnings = match restored? {
        Reply::Restored { warnings } => warnings,
        other => return Err(unexpected(&other).into()),
    };
    recorded?;
    kept_down.context("the container's service may come back at boot")?;
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_lasts_too_long_is_cancelled_and_says_so() {
        let mut outage = Outage::of(CancellationToken::new());
        outage.set_limit(Duration::from_millis(5));
        assert_eq!(outage.frozen_ms(), 0);
        outage.begin();
        outage.stop_if_cancelled().unwrap();
        outage.cancel.cancelled().await;
        assert!(outage.frozen_ms() >= 5);
        let error = outage.explain(outage.stop_if_cancelled().unwrap_err());
        let said = "not committed within the 5 ms that --max-freeze-ms, or Podman at the destination, allows: \
                    cancelled";
        assert_eq!(format!("{error:#}"), said);
    }

    #[tokio::test]
    async fn podman_does_not_wait_for_ever() {
        let mut outage = Outage::of(CancellationToken::new());
        outage.is_in_time().unwrap();
        outage.staged();
        outage.is_in_time().unwrap();
        outage.staged_at = Instant::now().checked_sub(PODMAN_WAITS - Duration::from_secs(40));
        outage.is_in_time().unwrap();
        outage.begin();
        assert!(outage.limit <= Duration::from_secs(40));
        outage.staged_at = Instant::now().checked_sub(PODMAN_WAITS);
        assert!(outage.is_in_time().is_err());
    }

    #[tokio::test]
    async fn the_user_cancels_without_the_clock() {
        let mut outage = Outage::of(CancellationToken::new());
        outage.begin();
        outage.cancel.cancel();
        let error = outage.explain(outage.stop_if_cancelled().unwrap_err());
        assert_eq!(format!("{error:#}"), "cancelled");
    }
}
