//! The source: `agent-client`, which runs now and then, and the copy that is to leave.

use common::journal::Progress;
use common::protocol::Fate;
use common::transaction::SourceStep;

use crate::decisions::Decisions;
use crate::message::Message;
use crate::network::Answer;
use crate::world::{Journal, MIGRATIONS, Record, World};

/// The container on the source. The kernel holds it, so it survives the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Copy {
    /// Runs, and its packets pass.
    Running,
    /// Frozen and silenced.
    Frozen,
    /// Removed.
    Gone,
}

/// The source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SourceHost {
    /// Its records.
    pub journal: Journal,
    /// The container.
    pub copy: Copy,
    /// The destination's copy has been visible since this one was frozen.
    pub outdated: bool,
    /// The command that runs, if one does. It is gone when it is killed.
    pub process: Option<Process>,
    /// The migrations whose `Commit` was sent and which, for all the destination has said, may have
    /// committed.
    pub undecided: [bool; MIGRATIONS],
    /// The container was thawed in such a migration.
    pub thawed_undecided: bool,
    /// A command has ended without knowing where the container runs.
    pub gave_up: bool,
}

impl Default for SourceHost {
    fn default() -> Self {
        SourceHost {
            journal: [None; MIGRATIONS],
            copy: Copy::Running,
            outdated: false,
            process: None,
            undecided: [false; MIGRATIONS],
            thawed_undecided: false,
            gave_up: false,
        }
    }
}

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    /// The migration that it is working on.
    pub migration: usize,
    /// The migration's connection.
    pub control: Option<usize>,
    /// What it does next.
    pub phase: Phase,
}

/// What a command does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Looks at what an earlier command left of the migration.
    Look {
        /// Migrates afterwards, once all have been looked at.
        then_migrate: bool,
    },
    /// Asks the destination what became of the migration.
    Ask {
        /// How far it has come with that.
        question: Question,
        /// Who asks.
        asker: Asker,
    },
    /// Does what recovery has decided.
    CarryOut {
        /// What to do to the container.
        step: Option<SourceStep>,
        /// Migrates afterwards, once all have been looked at.
        then_migrate: bool,
    },
    /// Records what it has done.
    Close {
        /// What to record.
        progress: Progress,
        /// Migrates afterwards, once all have been looked at.
        then_migrate: bool,
    },
    /// Executes a line of [`SCRIPT`].
    Line(usize),
    /// Has sent the request in a line of [`SCRIPT`], and now records what that line says.
    Recording(usize),
    /// Has sent the request in a line of [`SCRIPT`], and waits for the answer.
    Waiting(usize),
    /// Lets the container run again.
    Thaw,
    /// Tells the destination to undo.
    Abort,
    /// Waits until it has.
    Aborting,
    /// Records that the migration is undone.
    RecordUndo,
}

/// Who wants to know what became of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    /// The command whose commit was not answered.
    Migration,
    /// A later one, in its recovery.
    Recovery {
        /// Migrates afterwards, once all have been looked at.
        then_migrate: bool,
    },
}

/// How far a question has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Question {
    /// There is no connection for it.
    Unconnected,
    /// The greeting is under way, on this connection.
    Greeting(usize),
    /// The question is under way, on this connection.
    Asked(usize),
}

/// A line of a migration.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Line {
    /// Connects.
    Connect,
    /// Records this progress.
    Record(Progress),
    /// Sends this request to the destination and waits for the answer.
    Say(fn(usize) -> Message),
    /// The same, and records this progress meanwhile.
    SayAndRecord(fn(usize) -> Message, Progress),
    /// Freezes the container.
    Freeze,
    /// Waits for the destination's word that what came there is on disk.
    AwaitDisk,
    /// Removes it.
    Remove,
    /// Removes the scratch space.
    CleanUp,
}

/// A migration without faults.
pub(crate) const SCRIPT: &[Line] = &[
    Line::Connect,
    Line::Say(|_| Message::Hello),
    Line::Record(Progress::UnderWay),
    Line::Say(Message::Begin),
    Line::Say(|_| Message::OpenTunnel),
    Line::Say(|_| Message::ProveTunnel),
    Line::Say(|_| Message::ReceiveMemory),
    Line::Say(|_| Message::ReceiveSkeleton),
    Line::Say(|_| Message::StreamEnd),
    Line::Say(|_| Message::Stage),
    Line::Say(|_| Message::ReceiveFiles),
    Line::Say(|_| Message::StreamEnd),
    Line::Say(|_| Message::Flows),
    Line::Say(|_| Message::ReceiveCheckpoint),
    Line::Say(|_| Message::Redirect),
    Line::Freeze,
    Line::Say(|_| Message::Flows),
    Line::Say(|_| Message::StreamEnd),
    Line::Say(|_| Message::MemoryEnd),
    Line::SayAndRecord(|_| Message::Restore, Progress::Committing),
    Line::Say(|_| Message::Commit),
    // Not undone from here on.
    Line::Record(Progress::Committed),
    Line::AwaitDisk,
    Line::Remove,
    Line::CleanUp,
];

/// The line that sends `Commit`.
const COMMIT: usize = SCRIPT.len() - 5;

impl SourceHost {
    /// Nobody is at work, and nothing is left to finish.
    pub fn idle(&self) -> bool {
        self.process.is_none()
            && self
                .journal
                .iter()
                .flatten()
                .all(|record| match record.progress {
                    Progress::UnderWay | Progress::Committing => false,
                    _ => !record.scratch,
                })
    }

    fn write(&mut self, migration: usize, progress: Progress) {
        let scratch = progress != Progress::RolledBack;
        self.journal[migration] = Some(Record {
            progress,
            scratch,
            others: false,
        });
    }

    fn unsettled(&self, migration: usize, decisions: &Decisions) -> bool {
        self.journal[migration].is_some_and(|r| (decisions.unsettled)(r.progress, r.scratch))
    }
}

impl Process {
    /// Whether the user may still cancel, or a step may fail, so that everything is undone.
    pub fn may_fail(&self) -> bool {
        match self.phase {
            Phase::Line(line) => line < COMMIT && self.control.is_some(),
            Phase::Waiting(line) => line < COMMIT,
            _ => false,
        }
    }

    /// The connection on which it waits.
    pub fn waits_at(&self) -> Option<usize> {
        match self.phase {
            Phase::Waiting(_) | Phase::Aborting => self.control,
            Phase::Ask {
                question: Question::Greeting(connection) | Question::Asked(connection),
                ..
            } => Some(connection),
            _ => None,
        }
    }

    /// Whether it is asking, and could stop.
    pub fn may_give_up(&self) -> bool {
        matches!(
            self.phase,
            Phase::Ask {
                question: Question::Unconnected,
                ..
            }
        )
    }
}

impl World {
    /// Somebody runs a command: either a migration, or one that only recovers.
    pub(crate) fn source_runs(&mut self, migrate: bool) {
        self.source.process = Some(Process {
            migration: MIGRATIONS - 1,
            control: None,
            phase: Phase::Look {
                then_migrate: migrate,
            },
        });
    }

    /// The command is killed, or ends: the kernel closes its connections.
    pub(crate) fn source_ends(&mut self) {
        self.source.process = None;
        self.network.close_all();
    }

    /// The user cancels, or a step fails: everything is undone, if anything was begun.
    pub(crate) fn source_fails(&mut self) {
        if self.source.journal[self.process().migration].is_some() {
            self.enter(Phase::Thaw);
        } else {
            self.source_ends();
        }
    }

    /// The command stops asking. The container stays frozen.
    pub(crate) fn source_gives_up(&mut self, decisions: &Decisions) {
        self.source.gave_up = true;
        let process = self.process();
        match process.phase {
            Phase::Ask {
                asker: Asker::Recovery { then_migrate },
                ..
            } => self.look_at_next(then_migrate, decisions),
            _ => self.source_ends(),
        }
    }

    /// Whether the command can do something without waiting for anybody.
    pub(crate) fn source_may_work(&self) -> bool {
        self.source.process.is_some_and(|process| {
            let connects = process.may_give_up() || process.phase == Phase::Line(0);
            process.waits_at().is_none() && (self.destination.up || !connects)
        })
    }

    /// The command takes its next step.
    pub(crate) fn source_works(&mut self, decisions: &Decisions) {
        let Process {
            migration,
            control,
            phase,
        } = self.process();
        match phase {
            Phase::Look { then_migrate } => {
                if self.source.unsettled(migration, decisions) {
                    self.decide(None, Asker::Recovery { then_migrate }, decisions);
                } else {
                    self.look_at_next(then_migrate, decisions);
                }
            }
            Phase::Ask { asker, .. } => {
                let connection = self.network.connect();
                self.network.ask(connection, Message::Hello);
                self.enter(Phase::Ask {
                    question: Question::Greeting(connection),
                    asker,
                });
            }
            Phase::CarryOut { step, then_migrate } => {
                let progress = match step {
                    Some(SourceStep::Thaw) => {
                        self.thaw(migration);
                        Progress::RolledBack
                    }
                    Some(SourceStep::Remove) => {
                        self.remove_source();
                        Progress::Committed
                    }
                    _ => Progress::Committed,
                };
                self.enter(Phase::Close {
                    progress,
                    then_migrate,
                });
            }
            Phase::Close {
                progress,
                then_migrate,
            } => {
                self.source.journal[migration] = Some(Record {
                    progress,
                    scratch: false,
                    others: false,
                });
                self.look_at_next(then_migrate, decisions);
            }
            Phase::Line(line) => self.do_line(line, migration, control),
            Phase::Recording(line) => {
                if let Line::SayAndRecord(_, progress) = SCRIPT[line]
                    && decisions.announce
                {
                    self.source.write(migration, progress);
                }
                self.enter(Phase::Waiting(line));
            }
            Phase::Thaw => {
                self.thaw(migration);
                self.enter(Phase::Abort);
            }
            Phase::Abort => match control {
                Some(connection) => {
                    self.network.ask(connection, Message::Abort);
                    self.enter(Phase::Aborting);
                }
                None => self.enter(Phase::RecordUndo),
            },
            Phase::RecordUndo => {
                self.source.write(migration, Progress::RolledBack);
                self.source_ends();
            }
            Phase::Waiting(_) | Phase::Aborting => unreachable!("waits"),
        }
    }

    fn do_line(&mut self, line: usize, migration: usize, control: Option<usize>) {
        match SCRIPT[line] {
            Line::Connect => {
                let connection = self.network.connect();
                self.source.process = Some(Process {
                    migration,
                    control: Some(connection),
                    phase: Phase::Line(line + 1),
                });
                return;
            }
            Line::Say(message) => {
                let connection = control.expect("connected");
                self.source.undecided[migration] |= line == COMMIT;
                self.network.ask(connection, message(migration));
                self.enter(Phase::Waiting(line));
                return;
            }
            Line::SayAndRecord(message, _) => {
                let connection = control.expect("connected");
                self.network.ask(connection, message(migration));
                self.enter(Phase::Recording(line));
                return;
            }
            Line::Record(progress) => self.source.write(migration, progress),
            Line::Freeze => self.source.copy = Copy::Frozen,
            Line::AwaitDisk => {
                let connection = match control {
                    Some(connection) => {
                        self.network.ask(connection, Message::Fate(migration));
                        Question::Asked(connection)
                    }
                    None => Question::Unconnected,
                };
                return self.enter(Phase::Ask {
                    question: connection,
                    asker: Asker::Migration,
                });
            }
            Line::Remove => self.remove_source(),
            Line::CleanUp => {
                let record = self.source.journal[migration].as_mut();
                record.expect("written").scratch = false;
                return self.source_ends();
            }
        }
        self.enter(Phase::Line(line + 1));
    }

    /// The command receives the next answer on the connection on which it waits.
    pub(crate) fn source_reads(&mut self, connection: usize, decisions: &Decisions) {
        let answer = self.network.at_mut(connection).answers.remove(0);
        let migration = self.process().migration;
        match (self.process().phase, answer) {
            (Phase::Waiting(line), Answer::Done) => self.enter(Phase::Line(line + 1)),
            (Phase::Waiting(COMMIT), _) => self.ask_after_commit(answer == Answer::Refused),
            (Phase::Waiting(_), _) => {
                self.hang_up();
                self.source_fails();
            }
            (Phase::Aborting, Answer::Aborted) => self.enter(Phase::RecordUndo),
            // The late answer to a request that was cancelled.
            (Phase::Aborting, _) => {}
            // To something that was asked on this connection before.
            (
                Phase::Ask {
                    asker: asker @ Asker::Migration,
                    question: Question::Asked(_),
                },
                Answer::Done | Answer::Refused | Answer::Aborted,
            ) => self.enter(Phase::Ask {
                question: Question::Unconnected,
                asker,
            }),
            (Phase::Ask { asker, .. }, Answer::Done) => {
                self.network.ask(connection, Message::Fate(migration));
                self.enter(Phase::Ask {
                    question: Question::Asked(connection),
                    asker,
                });
            }
            (Phase::Ask { asker, .. }, Answer::Fate(fate)) => {
                self.source.undecided[migration] &= fate != Fate::RolledBack;
                self.network.close(connection);
                self.decide(Some(fate), asker, decisions);
            }
            (phase, answer) => unreachable!("{answer:?} in {phase:?}"),
        }
    }

    /// Whether the command may find that the connection on which it waits is lost.
    pub(crate) fn source_may_lose(&self, connection: usize) -> bool {
        let connection = self.network.at(connection);
        connection.broken || connection.session.is_none()
    }

    /// The command finds that the connection on which it waits is lost, or stops waiting.
    pub(crate) fn source_loses(&mut self, connection: usize) {
        match self.process().phase {
            Phase::Waiting(COMMIT) => self.ask_after_commit(false),
            Phase::Waiting(_) => self.source_fails(),
            Phase::Aborting => self.enter(Phase::RecordUndo),
            Phase::Ask { asker, .. } => {
                self.network.close(connection);
                self.enter(Phase::Ask {
                    question: Question::Unconnected,
                    asker,
                });
            }
            phase => unreachable!("{phase:?} waits for nothing"),
        }
    }

    /// The command does what is decided, given the destination's answer if there is one.
    fn decide(&mut self, answer: Option<Fate>, asker: Asker, decisions: &Decisions) {
        let migration = self.process().migration;
        let record = self.source.journal[migration].expect("begun");
        let frozen = self.source.copy == Copy::Frozen;
        let step = (decisions.source)(record.progress, answer, frozen);
        match (step, asker) {
            (Some(SourceStep::AwaitDisk), Asker::Migration)
                if record.progress == Progress::Committing =>
            {
                self.enter(Phase::Line(COMMIT + 1));
            }
            (Some(SourceStep::Ask | SourceStep::AwaitDisk), _) => self.enter(Phase::Ask {
                question: Question::Unconnected,
                asker,
            }),
            (Some(SourceStep::AskOperator), _) => {
                self.enter(Phase::Ask {
                    question: Question::Unconnected,
                    asker,
                });
                self.source_gives_up(decisions);
            }
            (step, Asker::Recovery { then_migrate }) => {
                self.enter(Phase::CarryOut { step, then_migrate });
            }
            (Some(SourceStep::Thaw), Asker::Migration) => self.enter(Phase::Thaw),
            (_, Asker::Migration) if record.progress == Progress::Committing => {
                self.enter(Phase::Line(COMMIT + 1));
            }
            // It is on disk there.
            (_, Asker::Migration) => self.enter(Phase::Line(COMMIT + 3)),
        }
    }

    fn thaw(&mut self, migration: usize) {
        if self.source.copy != Copy::Frozen {
            return;
        }
        self.source.thawed_undecided |= self.source.undecided[migration];
        self.run_source();
    }

    fn ask_after_commit(&mut self, refused: bool) {
        if refused {
            self.hang_up();
        }
        self.enter(Phase::Ask {
            question: Question::Unconnected,
            asker: Asker::Migration,
        });
    }

    /// The destination has undone everything: there is nothing left to tell it.
    fn hang_up(&mut self) {
        let process = self.source.process.as_mut().expect("a command");
        if let Some(connection) = process.control.take() {
            self.network.close(connection);
        }
    }

    fn look_at_next(&mut self, then_migrate: bool, decisions: &Decisions) {
        let process = self.source.process.as_mut().expect("a command");
        if process.migration > 0 {
            process.migration -= 1;
            process.phase = Phase::Look { then_migrate };
            return;
        }
        let next = self.source.journal.iter().position(Option::is_none);
        let settled = (0..MIGRATIONS).all(|m| !self.source.unsettled(m, decisions));
        match next {
            Some(migration)
                if then_migrate
                    && (settled || decisions.migrate_unsettled)
                    && self.source.copy != Copy::Gone =>
            {
                self.source.process = Some(Process {
                    migration,
                    control: None,
                    phase: Phase::Line(0),
                });
            }
            _ => self.source_ends(),
        }
    }

    fn process(&self) -> Process {
        self.source.process.expect("a command")
    }

    fn enter(&mut self, phase: Phase) {
        self.source.process.as_mut().expect("a command").phase = phase;
    }
}
