//! The memory of a container on its way to another host, as the source sees it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::process::{self, Process, ProcessesError};
use crate::ranges::{self, Flags, LazyRange, LazyRanges};
use crate::rounds::Round;
use crate::stream::Run;
use crate::tracker::{self, Abilities, Doubt, Kind, PassError, Sink, State, TrackError, Tracker};

/// The memory could not be sent. What the other side has of it is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The processes could not be found.
    #[error(transparent)]
    Processes(#[from] ProcessesError),
    /// A process's memory could not be read or sent.
    #[error(transparent)]
    Pass(#[from] PassError),
}

/// The memory of a container's processes, of which the other side has what was sent.
///
/// Effect on the container: threads may be stopped for less than a millisecond, and pages be write-protected, which costs a
/// fault for the first write to each after each round. Dropping it undoes that; so does the end of this process.
pub struct Source {
    cgroup: PathBuf,
    first: i32,
    abilities: Abilities,
    tracked: BTreeMap<u32, Tracked>,
}

/// Takes runs of pages.
pub type Send<'a> = dyn FnMut(&Run<'_>) -> io::Result<()> + std::marker::Send + 'a;

struct Tracked {
    process: Process,
    tracker: Box<dyn Tracker>,
    doubt: Option<Doubt>,
    /// Whether it has memory for which the flags matter (see [`Flags`]).
    excludes: bool,
    /// What the last round is to look at.
    left: Vec<LazyRange>,
}

/// How the changes of one process's memory are found.
#[derive(Debug)]
pub struct Way<'a> {
    /// Its number in the container.
    pub process: u32,
    /// How.
    pub kind: Kind,
    /// If not in the quick way, why.
    pub doubt: Option<&'a Doubt>,
}

impl Source {
    /// That of the container in `cgroup` (a directory), whose first process is `first`. Nothing is done yet.
    pub fn new(cgroup: &Path, first: i32, abilities: Abilities) -> Source {
        Source {
            cgroup: cgroup.to_owned(),
            first,
            abilities,
            tracked: BTreeMap::new(),
        }
    }

    /// How the changes of each process are found, after a round.
    pub fn ways(&self) -> impl Iterator<Item = Way<'_>> {
        self.tracked.iter().map(|(inside, tracked)| Way {
            process: *inside,
            kind: tracked.tracker.kind(),
            doubt: tracked.doubt.as_ref(),
        })
    }

    /// Sends what may have changed since it was sent, and what never was, while the container runs. `send` is called from several
    /// threads, but never twice at once.
    ///
    /// # Errors
    /// If memory cannot be read or sent. It must not be used again then.
    pub fn round(&mut self, send: &mut Send<'_>) -> Result<Round, SourceError> {
        let begin = Instant::now();
        self.find(State::Running)?;
        self.pass(begin, send, |tracked, abilities, sink| {
            let ranges = tracked.ranges(State::Running)?.all();
            tracked.pass(abilities, &ranges, State::Running, sink)
        })
    }

    /// Sends what has changed of the executable memory of the frozen container, before CRIU dumps it: CRIU writes into such memory
    /// meanwhile. [`Source::last_round`] sends the rest.
    ///
    /// # Errors
    /// As for [`Source::round`].
    pub fn before_the_dump(&mut self, send: &mut Send<'_>) -> Result<Round, SourceError> {
        let begin = Instant::now();
        self.find(State::Frozen)?;
        self.pass(begin, send, |tracked, abilities, sink| {
            let LazyRanges { executable, others } = tracked.ranges(State::Frozen)?;
            // CRIU's own memory is not there yet.
            tracked.left = others;
            tracked.pass(abilities, &executable, State::Frozen, sink)
        })
    }

    /// Sends the rest of what has changed of the frozen container, while CRIU dumps it or not. The other side then has all of its
    /// private anonymous memory.
    ///
    /// # Errors
    /// As for [`Source::round`].
    pub fn last_round(&mut self, send: &mut Send<'_>) -> Result<Round, SourceError> {
        self.pass(Instant::now(), send, |tracked, abilities, sink| {
            let left = std::mem::take(&mut tracked.left);
            tracked.pass(abilities, &left, State::Frozen, sink)
        })
    }

    fn pass(
        &mut self,
        begin: Instant,
        send: &mut Send<'_>,
        mut one: impl FnMut(&mut Tracked, Abilities, &Sink<'_>) -> Result<tracker::Pass, PassError>,
    ) -> Result<Round, SourceError> {
        let send = std::sync::Mutex::new(send);
        let sink = |run: &Run<'_>| {
            let mut send = send.lock().map_err(|_| io::Error::other("a panic"))?;
            send(run)
        };
        let mut round = Round::default();
        for tracked in self.tracked.values_mut() {
            let pass = one(tracked, self.abilities, &sink)?;
            round.examined_pages += pass.examined_pages;
            round.sent_pages += pass.sent_pages;
            round.zero_pages += pass.zero_pages;
            round.unread_pages += pass.unread_pages;
        }
        round.duration = begin.elapsed();
        Ok(round)
    }

    /// Forgets processes that have ended, and adds those that began.
    fn find(&mut self, state: State) -> Result<(), ProcessesError> {
        let mut found = process::of_cgroup(&self.cgroup, self.first)?;
        self.tracked.retain(|inside, tracked| {
            // Not the same number only: the same process.
            let same = tracked.process.exists()
                && found
                    .get(inside)
                    .is_some_and(|now| now.pid == tracked.process.pid);
            if same {
                found.remove(inside);
            }
            same
        });
        for (inside, process) in found {
            let (tracker, doubt) = match state {
                State::Running => tracker::choose(&process, self.abilities),
                // It cannot be made to do anything, and nothing will be asked of it again.
                State::Frozen => (tracker::hashes(self.abilities), None),
            };
            let tracked = Tracked {
                process,
                tracker,
                doubt,
                excludes: false,
                left: Vec::new(),
            };
            self.tracked.insert(inside, tracked);
        }
        Ok(())
    }
}

impl Tracked {
    fn ranges(&mut self, state: State) -> Result<LazyRanges, PassError> {
        let read = |flags| {
            ranges::lazy(&self.process, flags).map_err(|source| PassError::Read {
                pid: self.process.pid,
                source,
            })
        };
        let all = read(Flags::Ignored)?;
        match state {
            State::Running => {
                let lazy = read(Flags::Read)?;
                self.excludes = lazy != all;
                Ok(lazy)
            }
            // What is excluded is looked for only if there was any: that takes time.
            State::Frozen if self.excludes => read(Flags::Read),
            State::Frozen => Ok(all),
        }
    }

    fn pass(
        &mut self,
        abilities: Abilities,
        ranges: &[LazyRange],
        state: State,
        sink: &Sink<'_>,
    ) -> Result<tracker::Pass, PassError> {
        match self.tracker.pass(&self.process, ranges, state, sink) {
            Ok(pass) => Ok(pass),
            Err(TrackError::Pass(error)) => Err(error),
            Err(TrackError::Doubt(doubt)) => {
                self.tracker = tracker::hashes(abilities);
                self.doubt = Some(doubt);
                match self.tracker.pass(&self.process, ranges, state, sink) {
                    Ok(pass) => Ok(pass),
                    Err(TrackError::Pass(error)) => Err(error),
                    Err(TrackError::Doubt(_)) => unreachable!("hashes have no doubts"),
                }
            }
        }
    }
}
