//! The migration protocol as a model, all of whose states [`stateright`] visits.
//!
//! A [`World`] consists of both agents, what they keep on disk, what the kernel keeps for them, and
//! the connections between them. An [`Action`] is the smallest thing that one of them does or that
//! happens to them. What is legal is decided by [`common::protocol::State`], and what follows a
//! fault by [`common::transaction`]: the agents' own code. The rest repeats the order of steps in
//! `agent-client/src/migrate/mod.rs` and `recovery.rs`, and in `agent-server/src/session.rs`,
//! `incoming/mod.rs` and `recovery.rs`: keep it in step with them.
//!
//! A crash takes everything but disk and kernel. Nobody thaws or removes anything by hand, but now
//! and then somebody runs a command on the source, and a killed server is started again.

mod decisions;
mod destination;
mod message;
mod network;
mod source;
mod world;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use common::journal::Progress;
use stateright::{Model, Property};

pub use decisions::Decisions;
pub use destination::Part;
use world::MIGRATIONS;
pub use world::{Faults, World};

use destination::Work;
use message::Message;
use source::{Copy, Phase};

/// Migrations of one container from one source to one destination, under faults.
pub struct Migrations {
    decisions: Decisions,
    faults: Faults,
    /// States known to lead to a settled one.
    recoverable: Arc<Mutex<HashSet<u64>>>,
}

impl Migrations {
    /// A model with this many faults, and with these decisions in place of the agents' own.
    pub fn new(faults: Faults, decisions: Decisions) -> Self {
        Migrations {
            decisions,
            faults,
            recoverable: Arc::default(),
        }
    }

    /// Whether `world` can reach a settled state if no more faults happen.
    fn can_recover(&self, world: &World) -> bool {
        let mut seen = HashSet::from([fingerprint(world)]);
        let mut path: Vec<(World, Vec<Action>)> = vec![(world.clone(), self.helpful(world))];
        loop {
            let Some((world, actions)) = path.last_mut() else {
                return false;
            };
            let known = self
                .recoverable
                .lock()
                .expect("no panic")
                .contains(&fingerprint(world));
            if known || world.settled() {
                let mut recoverable = self.recoverable.lock().expect("no panic");
                recoverable.extend(path.iter().map(|(world, _)| fingerprint(world)));
                return true;
            }
            let Some(action) = actions.pop() else {
                path.pop();
                continue;
            };
            let next = self.next_state(world, action);
            if let Some(next) = next
                && seen.insert(fingerprint(&next))
            {
                let actions = self.helpful(&next);
                path.push((next, actions));
            }
        }
    }

    /// What can be done in `world` that is neither a fault nor a new migration.
    fn helpful(&self, world: &World) -> Vec<Action> {
        let mut actions = Vec::new();
        self.actions(world, &mut actions);
        actions.retain(|action| action.helps());
        actions
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// What one of the agents does, or what happens to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Somebody runs a command on the source, which begins with recovery.
    Run {
        /// The command is `migrate`.
        migrate: bool,
    },
    /// The command on the source takes its next step.
    SourceWorks,
    /// It receives an answer on this connection.
    SourceReads(usize),
    /// It finds that this connection is lost.
    SourceLoses(usize),
    /// It stops asking.
    SourceGivesUp,
    /// It is cancelled, or its next step fails.
    SourceFails,
    /// It is killed.
    SourceCrashes,
    /// The killed server is started again, or does the next step of its recovery.
    DestinationStarts,
    /// A starting server cannot undo everything, and goes on all the same.
    DestinationStartsAllTheSame,
    /// The server reads a request on this connection and carries it out.
    DestinationReads(usize),
    /// The same, but the step fails half-way.
    DestinationReadsAndFails(usize),
    /// Its session on this connection does the next step of its work.
    DestinationWorks(usize),
    /// The next step of that work fails.
    DestinationFails(usize, Part),
    /// The server finds that this connection is lost.
    DestinationLoses(usize),
    /// The server is killed.
    DestinationCrashes,
    /// This connection breaks.
    Breaks(usize),
    /// The container comes back to the source.
    ComesBack,
    /// Another peer begins a migration of this id, which comes this far.
    OtherBegins(usize, Progress),
}

impl Action {
    /// Whether it is neither a fault nor a new migration.
    fn helps(&self) -> bool {
        match self {
            Action::Run { migrate } => !migrate,
            Action::SourceWorks
            | Action::SourceReads(_)
            | Action::SourceLoses(_)
            | Action::SourceGivesUp
            | Action::DestinationStarts
            | Action::DestinationReads(_)
            | Action::DestinationWorks(_)
            | Action::DestinationLoses(_) => true,
            Action::SourceFails
            | Action::SourceCrashes
            | Action::DestinationStartsAllTheSame
            | Action::DestinationReadsAndFails(_)
            | Action::DestinationFails(..)
            | Action::DestinationCrashes
            | Action::Breaks(_)
            | Action::ComesBack
            | Action::OtherBegins(..) => false,
        }
    }
}

impl Model for Migrations {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.faults)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let faults = &world.faults;
        match world.source.process {
            None => {
                if !world.source.idle() {
                    actions.push(Action::Run { migrate: false });
                }
                if world.source.journal.contains(&None) && world.source.copy != Copy::Gone {
                    actions.push(Action::Run { migrate: true });
                }
            }
            Some(process) => {
                if faults.source_crashes > 0 {
                    actions.push(Action::SourceCrashes);
                }
                if faults.cancels > 0 && process.may_fail() {
                    actions.push(Action::SourceFails);
                }
                if process.may_give_up() {
                    actions.push(Action::SourceGivesUp);
                }
                if world.source_may_work() {
                    actions.push(Action::SourceWorks);
                }
                if let Some(connection) = process.waits_at() {
                    if !world.network.at(connection).answers.is_empty() {
                        actions.push(Action::SourceReads(connection));
                    }
                    if world.source_may_lose(connection) {
                        actions.push(Action::SourceLoses(connection));
                    }
                }
            }
        }
        if !world.destination.up {
            actions.push(Action::DestinationStarts);
            if faults.failures > 0 && world.destination_may_start_all_the_same() {
                actions.push(Action::DestinationStartsAllTheSame);
            }
        }
        if faults.destination_crashes > 0 {
            actions.push(Action::DestinationCrashes);
        }
        for number in world.network.numbers() {
            let connection = world.network.at(number);
            if faults.breaks > 0 && !connection.broken && connection.held {
                actions.push(Action::Breaks(number));
            }
            if world.destination_listens(number) {
                actions.push(Action::DestinationReads(number));
                // A greeting cannot fail; the others fail in the work that follows.
                let meets = [Message::Hello, Message::Abort, Message::Commit];
                if faults.failures > 0 && !meets.contains(&connection.requests[0]) {
                    actions.push(Action::DestinationReadsAndFails(number));
                }
            }
            if world.destination_may_lose(number) {
                actions.push(Action::DestinationLoses(number));
            }
            if let Some(work) = connection.session.as_ref().and_then(|s| s.work) {
                actions.push(Action::DestinationWorks(number));
                if faults.failures > 0 {
                    actions.push(Action::DestinationFails(number, Part::Whole));
                    if matches!(work, Work::Undo(_)) {
                        actions.push(Action::DestinationFails(number, Part::Rest));
                    }
                }
            }
        }
        let there = world.destination.copy.is_some_and(|copy| copy.visible());
        if faults.returns > 0 && world.source.copy == Copy::Gone && there {
            actions.push(Action::ComesBack);
        }
        if faults.others > 0 && world.destination.up {
            for migration in 0..MIGRATIONS {
                // The destination never writes `committing`.
                let ends = [
                    Progress::UnderWay,
                    Progress::Committed,
                    Progress::OnDisk,
                    Progress::RolledBack,
                ];
                actions.extend(ends.map(|end| Action::OtherBegins(migration, end)));
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        let decisions = &self.decisions;
        match action {
            Action::Run { migrate } => world.source_runs(migrate),
            Action::SourceWorks => world.source_works(decisions),
            Action::SourceReads(connection) => world.source_reads(connection, decisions),
            Action::SourceLoses(connection) => world.source_loses(connection),
            Action::SourceGivesUp => world.source_gives_up(decisions),
            Action::SourceFails => {
                world.faults.cancels -= 1;
                world.source_fails();
            }
            Action::SourceCrashes => {
                world.faults.source_crashes -= 1;
                world.source_ends();
            }
            Action::DestinationStarts => world.destination_starts(decisions),
            Action::DestinationStartsAllTheSame => {
                world.faults.failures -= 1;
                world.destination_starts_all_the_same();
            }
            Action::DestinationReads(connection) => {
                world.destination_reads(connection, false, decisions);
            }
            Action::DestinationReadsAndFails(connection) => {
                world.faults.failures -= 1;
                world.destination_reads(connection, true, decisions);
            }
            Action::DestinationWorks(connection) => world.destination_works(connection),
            Action::DestinationFails(connection, part) => {
                world.faults.failures -= 1;
                world.destination_fails(connection, part);
            }
            Action::DestinationLoses(connection) => world.destination_loses(connection),
            Action::DestinationCrashes => {
                world.faults.destination_crashes -= 1;
                world.destination_crashes();
            }
            Action::Breaks(connection) => {
                world.faults.breaks -= 1;
                world.network.at_mut(connection).broken = true;
            }
            Action::ComesBack => {
                world.faults.returns -= 1;
                world.destination.copy = None;
                world.run_source();
            }
            Action::OtherBegins(migration, progress) => {
                world.faults.others -= 1;
                world.other_begins(migration, progress, decisions);
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never two copies", |_, world: &World| {
                world.one_copy_at_most()
            }),
            Property::always("never none", |_, world: &World| world.one_copy_at_least()),
            Property::always("no output before the commit", |_, world: &World| {
                world.nothing_leaves_before_the_commit()
            }),
            Property::always("no thaw without proof", |_, world: &World| {
                !world.source.thawed_undecided
            }),
            Property::always("on disk before the removal", |_, world: &World| {
                world.removed_last()
            }),
            Property::always("can recover", |model: &Self, world: &World| {
                model.can_recover(world)
            }),
            Property::sometimes("moved", |_, world: &World| {
                world.settled() && world.source.copy == Copy::Gone
            }),
            Property::sometimes("rolled back", |_, world: &World| {
                world.settled()
                    && world.source.journal.iter().flatten().count() == 1
                    && world.source.copy == Copy::Running
                    && world.destination.journal[0]
                        .is_some_and(|r| r.progress == Progress::RolledBack)
            }),
            Property::sometimes("unknown, then moved", |_, world: &World| {
                world.source.gave_up && world.settled() && world.source.copy == Copy::Gone
            }),
            Property::sometimes("unknown, then rolled back", |_, world: &World| {
                world.source.gave_up && world.settled() && world.source.copy == Copy::Running
            }),
            // The delayed commit that makes a timeout prove nothing.
            Property::sometimes("asked before the commit arrives", |_, world: &World| {
                let asks = world
                    .source
                    .process
                    .is_some_and(|p| matches!(p.phase, Phase::Ask { .. }));
                asks && world.network.numbers().any(|number| {
                    let requests = &world.network.at(number).requests;
                    requests.contains(&Message::Commit)
                })
            }),
        ]
    }
}
