//! The destination: `agent-server`, and the copy that has arrived.

use common::journal::Progress;
use common::protocol::{Fate, State};
use common::transaction::DestinationStep;

use crate::decisions::Decisions;
use crate::message::Message;
use crate::network::Answer;
use crate::world::{Journal, MIGRATIONS, Record, World};

/// The container at the destination. The kernel holds it, so it survives the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Arrival {
    /// The migration that brought it.
    pub migration: usize,
    /// The source's copy has run on since this one was made.
    pub outdated: bool,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// At the gate: no process yet.
    Gate,
    /// Runs, quarantined.
    Silenced,
    /// Runs, and its packets pass.
    Visible,
}

impl Arrival {
    /// Whether it has the state of the source's copy.
    pub fn restored(&self) -> bool {
        self.stage != Stage::Gate
    }

    /// Whether its packets pass.
    pub fn visible(&self) -> bool {
        self.stage == Stage::Visible
    }

    /// Lifts the quarantine.
    pub fn show(&mut self) {
        if self.stage == Stage::Silenced {
            self.stage = Stage::Visible;
        }
    }
}

/// One connection's session. It ends with the agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Session {
    /// What is legal next.
    pub state: State,
    /// The open migration, for which it has reserved the container.
    pub migration: Option<usize>,
    /// What it is working on; meanwhile it does not listen.
    pub work: Option<Work>,
}

impl Default for Session {
    fn default() -> Self {
        Session {
            state: State::Greeting,
            migration: None,
            work: None,
        }
    }
}

impl Session {
    fn close_migration(&mut self) {
        *self = Session {
            state: State::Idle,
            ..Session::default()
        };
    }
}

/// What a session does in more than one step, so that something can happen in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// The commit is on disk; next, packets are released.
    ReleasePackets,
    /// Packets pass; next, the commit is recorded. The wrong way round.
    RecordCommit,
    /// The commit has been answered; next, what only the migration needed is removed.
    FinishOutage,
    /// Packets could not be released; next, the record is put back.
    TakeBack,
    /// Next, the copy is removed.
    Undo(Then),
    /// The copy is removed; next, that is recorded.
    RecordUndo(Then),
}

/// What follows an undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Then {
    /// The request is refused.
    Refuse,
    /// The request is refused, and the connection closed.
    RefuseAndEnd,
    /// The abort is answered.
    Answer,
    /// Nobody is left to be told.
    End,
}

/// Which part of a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// All of it; of an undo, the removal of the container.
    Whole,
    /// Of an undo, something other than the container.
    Rest,
}

/// The destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DestinationHost {
    /// The agent listens.
    pub up: bool,
    /// Its records.
    pub journal: Journal,
    /// The container, if there is one.
    pub copy: Option<Arrival>,
    /// An undo has failed since the agent was started.
    pub undo_failed: bool,
}

impl Default for DestinationHost {
    fn default() -> Self {
        DestinationHost {
            up: true,
            journal: [None; MIGRATIONS],
            copy: None,
            undo_failed: false,
        }
    }
}

impl DestinationHost {
    /// Whether the record of `migration` says `committed`.
    pub fn committed(&self, migration: usize) -> bool {
        self.journal[migration].is_some_and(|r| r.progress.committed())
    }

    /// Whether `migration` has brought the container.
    fn brought(&self, migration: usize) -> bool {
        self.journal[migration].is_some_and(|r| r.progress.committed() && !r.others)
    }

    fn write(&mut self, migration: usize, progress: Progress) {
        let record = self.journal[migration].as_mut().expect("begun");
        record.progress = progress;
    }

    fn remove_scratch(&mut self, migration: usize) {
        self.journal[migration].as_mut().expect("begun").scratch = false;
    }
}

impl World {
    /// The agent is killed.
    pub(crate) fn destination_crashes(&mut self) {
        self.network.end_all();
        self.destination.up = false;
        self.destination.undo_failed = false;
    }

    /// An agent that is starting does the next step of its recovery, or begins to listen.
    pub(crate) fn destination_starts(&mut self, decisions: &Decisions) {
        for migration in (0..MIGRATIONS).rev() {
            if self.recover_arrival(migration, decisions) {
                return;
            }
        }
        self.destination.up = true;
    }

    /// An agent that is starting begins to listen although something is left that it could not
    /// undo.
    pub(crate) fn destination_starts_all_the_same(&mut self) {
        self.destination.undo_failed = true;
        self.destination.up = true;
    }

    /// Whether it may: not before everything that was committed has been released.
    pub(crate) fn destination_may_start_all_the_same(&self) -> bool {
        let committed = |migration| self.destination.committed(migration);
        let mut records = self.destination.journal.iter().enumerate();
        !self.destination.up
            && !records.any(|(m, record)| committed(m) && record.is_some_and(|r| r.scratch))
    }

    /// Does the next step of what is left to do for `migration`; returns whether there was any.
    fn recover_arrival(&mut self, migration: usize, decisions: &Decisions) -> bool {
        let Some(record) = self.destination.journal[migration] else {
            return false;
        };
        let arrived_since =
            (migration + 1..MIGRATIONS).any(|later| self.destination.brought(later));
        match (decisions.destination)(record.progress, arrived_since) {
            // Of another container.
            Some(_) if record.others && !record.scratch => return false,
            Some(DestinationStep::Undo) if record.others => {
                self.destination.write(migration, Progress::RolledBack);
                self.destination.remove_scratch(migration);
            }
            Some(DestinationStep::ReleasePackets) if record.others => {
                self.destination.write(migration, Progress::OnDisk);
                self.destination.remove_scratch(migration);
            }
            // Podman knows containers by their ids: it makes no difference which migration brought
            // this one.
            Some(DestinationStep::Undo) if self.destination.copy.is_some() => {
                self.destination.copy = None;
            }
            Some(DestinationStep::Undo) => {
                self.destination.write(migration, Progress::RolledBack);
                self.destination.remove_scratch(migration);
            }
            Some(DestinationStep::ReleasePackets) if record.scratch => {
                self.run_destination();
                self.destination.write(migration, Progress::OnDisk);
                self.destination.remove_scratch(migration);
            }
            Some(DestinationStep::ReleasePackets) | None => return false,
        }
        true
    }

    /// Whether the next request on `connection` would be read now.
    pub(crate) fn destination_listens(&self, connection: usize) -> bool {
        let connection = self.network.at(connection);
        let session = connection.session.as_ref();
        session.is_some_and(|s| s.work.is_none()) && !connection.requests.is_empty()
    }

    /// Whether the destination may find `connection` lost.
    pub(crate) fn destination_may_lose(&self, connection: usize) -> bool {
        let connection = self.network.at(connection);
        let session = connection.session.as_ref();
        session.is_some_and(|s| s.work.is_none()) && (connection.broken || !connection.held)
    }

    /// The destination finds `connection` lost.
    pub(crate) fn destination_loses(&mut self, connection: usize) {
        self.network.at_mut(connection).requests.clear();
        self.undo(connection, Then::End);
    }

    /// The next request on `connection` is read and carried out, or fails half-way.
    pub(crate) fn destination_reads(
        &mut self,
        connection: usize,
        fails: bool,
        decisions: &Decisions,
    ) {
        let message = self.network.at_mut(connection).requests.remove(0);
        let session = self.session(connection);
        let Ok(next) = session.state.after(message.request()) else {
            return self.undo(connection, Then::RefuseAndEnd);
        };
        let mut met = !fails;
        match message {
            Message::Abort => return self.undo(connection, Then::Answer),
            Message::Commit => {
                let migration = session.migration.expect("legal");
                let work = if decisions.record_first {
                    self.destination.write(migration, Progress::Committed);
                    Work::ReleasePackets
                } else {
                    self.run_destination();
                    Work::RecordCommit
                };
                self.session(connection).work = Some(work);
                return;
            }
            Message::Fate(migration) => {
                let fate = self.fate(migration, fails, decisions);
                self.network.answer(connection, Answer::Fate(fate));
                return;
            }
            Message::Begin(migration) => {
                let reserved = self.network.sessions().any(|s| s.migration.is_some());
                let record = self.destination.journal[migration].map(|r| r.progress);
                if reserved || self.destination.copy.is_some() || !(decisions.may_begin)(record) {
                    met = false;
                } else {
                    self.destination.journal[migration] = Some(Record {
                        progress: Progress::UnderWay,
                        scratch: true,
                        others: false,
                    });
                    if met {
                        self.session(connection).migration = Some(migration);
                    }
                }
            }
            Message::Stage => {
                self.destination.copy = Some(Arrival {
                    migration: session.migration.expect("legal"),
                    outdated: false,
                    stage: Stage::Gate,
                });
            }
            Message::Restore => {
                let copy = self.destination.copy.as_mut().expect("staged");
                copy.stage = Stage::Silenced;
            }
            _ => {}
        }
        if met {
            self.session(connection).state = next;
            self.network.answer(connection, Answer::Done);
        } else {
            self.undo(connection, Then::Refuse);
        }
    }

    /// The answer to `Fate`. If nobody is working on the migration, it is finished or undone first,
    /// unless that fails.
    fn fate(&mut self, migration: usize, fails: bool, decisions: &Decisions) -> Fate {
        let reserved = self.network.sessions().any(|s| s.migration.is_some());
        let theirs = self.destination.journal[migration].is_some_and(|r| !r.others);
        if decisions.recover_when_asked && theirs && !reserved && !fails {
            while self.recover_arrival(migration, decisions) {}
        }
        // A commit that has been answered can no longer change.
        let at_work = self
            .network
            .sessions()
            .any(|s| s.migration == Some(migration) && s.work != Some(Work::FinishOutage));
        let record = self.destination.journal[migration];
        (decisions.fate)(
            record.map(|r| r.progress),
            record.is_some_and(|r| !r.others),
            at_work || fails,
        )
    }

    /// Another peer begins a migration of this id, of another container, and it comes as far as `progress`.
    pub(crate) fn other_begins(
        &mut self,
        migration: usize,
        progress: Progress,
        decisions: &Decisions,
    ) {
        let record = self.destination.journal[migration].map(|r| r.progress);
        if (decisions.may_begin)(record) {
            self.destination.journal[migration] = Some(Record {
                progress,
                scratch: matches!(progress, Progress::UnderWay | Progress::Committed),
                others: true,
            });
        }
    }

    /// A session does the next step of its work.
    pub(crate) fn destination_works(&mut self, connection: usize) {
        let session = self.session(connection);
        let migration = session.migration.expect("at work");
        match session.work.expect("at work") {
            Work::ReleasePackets => {
                self.run_destination();
                self.committed(connection);
            }
            Work::RecordCommit => {
                self.destination.write(migration, Progress::Committed);
                self.committed(connection);
            }
            Work::FinishOutage => {
                self.destination.write(migration, Progress::OnDisk);
                self.destination.remove_scratch(migration);
                self.session(connection).close_migration();
            }
            Work::TakeBack => {
                self.destination.write(migration, Progress::UnderWay);
                self.undo(connection, Then::Refuse);
            }
            Work::Undo(then) => {
                // Its undo list only has what it created itself.
                if self
                    .destination
                    .copy
                    .is_some_and(|c| c.migration == migration)
                {
                    self.destination.copy = None;
                }
                self.session(connection).work = Some(Work::RecordUndo(then));
            }
            Work::RecordUndo(then) => {
                self.destination.write(migration, Progress::RolledBack);
                self.destination.remove_scratch(migration);
                self.undone(connection, then);
            }
        }
    }

    /// The next step of a session's work fails.
    pub(crate) fn destination_fails(&mut self, connection: usize, part: Part) {
        let session = self.session(connection);
        match session.work.expect("at work") {
            Work::ReleasePackets | Work::RecordCommit => session.work = Some(Work::TakeBack),
            // The rest is left to the next start.
            Work::FinishOutage => session.close_migration(),
            // The record says `committed`, so that is what it is.
            Work::TakeBack => {
                session.close_migration();
                self.network.answer(connection, Answer::Refused);
            }
            Work::Undo(then) | Work::RecordUndo(then) => {
                if part == Part::Rest {
                    self.destination.copy = None;
                }
                self.destination.undo_failed = true;
                self.undone(connection, then);
            }
        }
    }

    fn session(&mut self, connection: usize) -> &mut Session {
        let session = self.network.at_mut(connection).session.as_mut();
        session.expect("an open session")
    }

    fn committed(&mut self, connection: usize) {
        self.session(connection).work = Some(Work::FinishOutage);
        self.network.answer(connection, Answer::Done);
    }

    fn undo(&mut self, connection: usize, then: Then) {
        let session = self.session(connection);
        if session.migration.is_some() {
            session.work = Some(Work::Undo(then));
        } else {
            self.undone(connection, then);
        }
    }

    fn undone(&mut self, connection: usize, then: Then) {
        self.session(connection).close_migration();
        match then {
            Then::Refuse => self.network.answer(connection, Answer::Refused),
            Then::Answer => self.network.answer(connection, Answer::Aborted),
            Then::RefuseAndEnd => {
                self.network.answer(connection, Answer::Refused);
                self.network.end(connection);
            }
            Then::End => self.network.end(connection),
        }
    }
}
