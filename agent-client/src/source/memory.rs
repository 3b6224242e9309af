//! The container's memory goes ahead of its checkpoint.

use std::io::BufWriter;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::bulk::Sender;
use common::protocol::StreamDigest;
use common::report;
use memory::rounds::{self, Limits, Next, Round};
use memory::source::Source as Changing;
use memory::stream;
use memory::tracker::Abilities;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::data::{buffered, finished};
use super::{Data, Source};

/// Time for all rounds. The tunnel may be slow.
const MOST_TIME: Duration = Duration::from_secs(600);

/// Memory on its way, from the first round until the container is frozen.
pub(crate) struct Ahead {
    changing: Changing,
    sender: BufWriter<Sender>,
    rounds: Vec<Round>,
    /// When the last round began.
    begun: Instant,
    /// What was sent since the freeze.
    in_outage_bytes: u64,
    /// Ends the stream.
    pub(crate) cancel: CancellationToken,
}

/// All memory of the frozen container has been sent.
pub(crate) struct Complete {
    /// What its stream was.
    pub(crate) digest: StreamDigest,
    /// A word for the report.
    pub(crate) memory: report::Memory,
    /// What was done to the container is undone when this is dropped, which takes a while.
    pub(crate) followed: Changing,
}

impl Source {
    /// Sends the memory while the container runs, and then what has changed meanwhile, until little is left for
    /// the outage or the amount stops shrinking.
    ///
    /// Effect on the container: that of [`memory::source::Source`], until the result is dropped.
    pub(crate) async fn send_ahead(
        &self,
        stream: u32,
        data: &Data,
        cancel: CancellationToken,
    ) -> anyhow::Result<Ahead> {
        let cgroup = self.standstill.freezer.directory().to_owned();
        let (first, data) = (self.standstill.pid, data.clone());
        spawn_blocking(move || {
            let cancel = cancel.child_token();
            let ahead = Ahead {
                sender: buffered(data.open(stream, cancel.clone())?),
                changing: Changing::new(&cgroup, first, Abilities::of_this_kernel()),
                rounds: Vec::new(),
                begun: Instant::now(),
                in_outage_bytes: 0,
                cancel,
            };
            ahead.rounds()
        })
        .await?
    }
}

impl Ahead {
    /// Rounds until what is left fits, or no longer shrinks.
    fn rounds(mut self) -> anyhow::Result<Self> {
        let limits = Limits {
            // The container runs meanwhile.
            most_time: MOST_TIME,
            ..Limits::default()
        };
        loop {
            anyhow::ensure!(!self.cancel.is_cancelled(), "cancelled");
            // Memory changes until the next round begins, whatever is done meanwhile.
            if let Some(before) = self.rounds.last_mut() {
                before.duration = self.begun.elapsed();
            }
            self.begun = Instant::now();
            let sender = &mut self.sender;
            let round = self.changing.round(&mut |run| stream::write(run, sender))?;
            self.rounds.push(round);
            if let Next::Freeze(why) = rounds::next(&self.rounds, &limits) {
                tracing::debug!(rounds = self.rounds.len(), ?why, "memory was sent ahead");
                return Ok(self);
            }
        }
    }

    /// Sends what has changed since the last round, for the last time before the freeze.
    pub(crate) async fn catch_up(self) -> anyhow::Result<Self> {
        let caught_up = spawn_blocking(|| self.rounds()).await?;
        caught_up.context("cannot send the memory that changed")
    }

    /// Sends what has changed of the frozen container, as far as CRIU might write there while it dumps.
    pub(crate) async fn before_the_dump(mut self) -> anyhow::Result<Self> {
        let sent = spawn_blocking(move || {
            let sender = &mut self.sender;
            let first = self
                .changing
                .before_the_dump(&mut |run| stream::write(run, sender))?;
            anyhow::Ok((self, first))
        });
        let (mut ahead, first) = sent.await?.context("cannot send the memory that changed")?;
        ahead.in_outage_bytes = first.content_bytes();
        Ok(ahead)
    }

    /// Sends the rest of what has changed of the frozen container.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Complete> {
        let sent = spawn_blocking(move || {
            let sender = &mut self.sender;
            let last = self
                .changing
                .last_round(&mut |run| stream::write(run, sender))?;
            let mut trackers: Vec<String> = self
                .changing
                .ways()
                .map(|way| way.kind.to_string())
                .collect();
            trackers.sort();
            trackers.dedup();
            let memory = report::Memory {
                rounds: self.rounds.len() as u32,
                ahead_bytes: self.rounds.iter().map(Round::content_bytes).sum(),
                outage_bytes: self.in_outage_bytes + last.content_bytes(),
                trackers,
            };
            anyhow::Ok(Complete {
                digest: finished(self.sender)?,
                memory,
                followed: self.changing,
            })
        });
        sent.await?.context("cannot send the memory that changed")
    }
}
