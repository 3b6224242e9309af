//! The container's memory goes ahead of its checkpoint.

use std::io::BufWriter;

use anyhow::Context;
use common::bulk::Sender;
use common::container::checkpoint::page_port;
use common::protocol::StreamDigest;
use common::report;
use common::units;
use memory::rounds::{self, Limits, Next, Round};
use memory::source::Source as Changing;
use memory::stream;
use memory::tracker::{Abilities, State};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::data::{buffered, finished};
use super::{Data, Source};

/// Containers with less memory than this, in bytes, move it in the outage: leaving it out of the dump costs
/// more than writing and sending it does (docs/outage.md).
const WORTH_IT_BYTES: u64 = 64 << 20;

/// The only runtime whose restore has been seen to be lazy.
const RUNTIME: &str = "runc";

/// Memory on its way, from the first round until the container is frozen.
pub(crate) struct Ahead {
    changing: Changing,
    sender: BufWriter<Sender>,
    rounds: Vec<Round>,
}

/// Why memory does not go ahead, or that it does.
pub(crate) enum Way {
    /// It does.
    Ahead,
    /// It goes in the outage, for this reason.
    InOutage(String),
}

impl Source {
    /// Which way the memory goes to a destination that has so much room for it.
    pub(crate) fn way_of_memory(&self, room_bytes: u64) -> Way {
        let bytes = self.facts.memory_bytes;
        let why = if bytes < WORTH_IT_BYTES {
            format!("{} is little", units::bytes(bytes))
        } else if self.facts.runtime_name() != RUNTIME {
            format!("{} cannot restore it lazily", self.facts.runtime_name())
        } else if bytes > room_bytes {
            format!(
                "the destination has room for {} of {}",
                units::bytes(room_bytes),
                units::bytes(bytes)
            )
        } else if let Some(problem) = page_port::problem() {
            problem
        } else {
            return Way::Ahead;
        };
        Way::InOutage(why)
    }

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
            let limits = Limits::default();
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
