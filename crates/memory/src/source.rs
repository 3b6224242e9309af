//! The memory of a container on its way to another host, as the source sees it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::process::{self, Process, ProcessesError};
use crate::ranges::{self, Flags};
use crate::rounds::Round;
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

struct Tracked {
    process: Process,
    tracker: Box<dyn Tracker>,
    doubt: Option<Doubt>,
    /// Whether it has memory for which the flags matter (see [`Flags`]).
    excludes: bool,
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

    /// Sends what may have changed since it was sent, and what never was. `send` is called from several threads, but never twice
    /// at once.
    ///
    /// In [`State::Frozen`] the container must be frozen, and the other side then has all of its private anonymous memory.
    ///
    /// # Errors
    /// If memory cannot be read or sent. It must not be used again then.
    pub fn round(
        &mut self,
        state: State,
        send: &mut (dyn FnMut(&crate::stream::Run<'_>) -> io::Result<()> + Send),
    ) -> Result<Round, SourceError> {
        let begin = Instant::now();
        let send = std::sync::Mutex::new(send);
        let sink = |run: &crate::stream::Run<'_>| {
            let mut send = send.lock().map_err(|_| io::Error::other("a panic"))?;
            send(run)
        };
        self.find(state)?;
        let mut round = Round::default();
        for tracked in self.tracked.values_mut() {
            let pass = tracked.pass(self.abilities, state, &sink)?;
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
            };
            self.tracked.insert(inside, tracked);
        }
        Ok(())
    }
}

impl Tracked {
    fn pass(
        &mut self,
        abilities: Abilities,
        state: State,
        sink: &Sink<'_>,
    ) -> Result<tracker::Pass, PassError> {
        let read = |source| PassError::Read {
            pid: self.process.pid,
            source,
        };
        let ranges = match state {
            State::Running => {
                let all = ranges::lazy(&self.process, Flags::Ignored).map_err(read)?;
                let lazy = ranges::lazy(&self.process, Flags::Read).map_err(read)?;
                self.excludes = lazy != all;
                lazy
            }
            // What must not be left out was not looked for, as a rule: that takes time.
            State::Frozen if self.excludes => {
                ranges::lazy(&self.process, Flags::Read).map_err(read)?
            }
            State::Frozen => ranges::lazy(&self.process, Flags::Ignored).map_err(read)?,
        };
        match self.tracker.pass(&self.process, &ranges, state, sink) {
            Ok(pass) => Ok(pass),
            Err(TrackError::Pass(error)) => Err(error),
            Err(TrackError::Doubt(doubt)) => {
                self.tracker = tracker::hashes(abilities);
                self.doubt = Some(doubt);
                match self.tracker.pass(&self.process, &ranges, state, sink) {
                    Ok(pass) => Ok(pass),
                    Err(TrackError::Pass(error)) => Err(error),
                    Err(TrackError::Doubt(_)) => unreachable!("hashes have no doubts"),
                }
            }
        }
    }
}
