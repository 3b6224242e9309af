//! The container's memory goes ahead of its checkpoint.

use std::io::BufWriter;
use std::time::Duration;

use anyhow::Context;
use common::bulk::Sender;
use common::protocol::StreamDigest;
use common::report;
use memory::rounds::{self, Limits, Next, Round};
use memory::source::Source as Changing;
use memory::stream;
use memory::tracker::{Abilities, State};
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
            let mut ahead = Ahead {
                sender: buffered(data.open(stream, cancel)?),
                changing: Changing::new(&cgroup, first, Abilities::of_this_kernel()),
                rounds: Vec::new(),
            };
            let limits = Limits {
                // The container runs meanwhile.
                most_time: MOST_TIME,
                ..Limits::default()
            };
            loop {
                ahead.round(State::Running)?;
                if let Next::Freeze(why) = rounds::next(&ahead.rounds, &limits) {
                    tracing::debug!(rounds = ahead.rounds.len(), ?why, "memory was sent ahead");
                    return Ok(ahead);
                }
            }
        })
        .await?
    }
}

impl Ahead {
    fn round(&mut self, state: State) -> anyhow::Result<()> {
        let sender = &mut self.sender;
        let mut send = |run: &stream::Run<'_>| stream::write(run, sender);
        let round = self.changing.round(state, &mut send)?;
        self.rounds.push(round);
        Ok(())
    }

    /// Sends what has changed of the frozen container. Returns what the stream was, and a word for the report.
    pub(crate) async fn finish(mut self) -> anyhow::Result<(StreamDigest, report::Memory)> {
        spawn_blocking(move || {
            self.round(State::Frozen)
                .context("cannot send the memory that changed")?;
            let last = self.rounds.pop().unwrap_or_default();
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
                outage_bytes: last.content_bytes(),
                trackers,
            };
            Ok((finished(self.sender)?, memory))
        })
        .await?
    }
}
