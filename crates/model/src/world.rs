//! Both hosts and what is between them.

use common::journal::Progress;

use crate::destination::DestinationHost;
use crate::network::Network;
use crate::source::{Copy, SourceHost};

/// Most migrations of the one container from the source to the destination.
pub(crate) const MIGRATIONS: usize = 2;

/// A recorded migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// What its record says.
    pub progress: Progress,
    /// Its scratch space is there.
    pub scratch: bool,
    /// It is of another peer than the source.
    pub others: bool,
}

/// The journal of one host, by number of the migration. Survives everything.
pub(crate) type Journal = [Option<Record>; MIGRATIONS];

/// How many faults of each kind may still happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// The source's agent is killed.
    pub source_crashes: u8,
    /// The destination's agent is killed.
    pub destination_crashes: u8,
    /// A connection breaks, or is so slow that it might as well.
    pub breaks: u8,
    /// A step fails at the destination; that includes a part of an undo.
    pub failures: u8,
    /// The user cancels, or a step fails at the source.
    pub cancels: u8,
    /// The container comes back by a migration that is not modelled.
    pub returns: u8,
    /// Another peer begins a migration, of a container of its own, which ends or is left under way; it knows the ids
    /// of the source's.
    pub others: u8,
}

/// One state of everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The source.
    pub source: SourceHost,
    /// The destination.
    pub destination: DestinationHost,
    /// The connections.
    pub network: Network,
    /// What may still go wrong.
    pub faults: Faults,
}

impl World {
    /// A container that runs on the source, and agents that have never met.
    pub fn new(faults: Faults) -> Self {
        World {
            source: SourceHost::default(),
            destination: DestinationHost::default(),
            network: Network::default(),
            faults,
        }
    }

    /// The source's copy runs, and its packets pass.
    pub fn run_source(&mut self) {
        self.source.copy = Copy::Running;
        if let Some(copy) = &mut self.destination.copy {
            copy.outdated |= copy.restored();
        }
    }

    /// The packets of the destination's copy pass.
    pub fn run_destination(&mut self) {
        if let Some(copy) = &mut self.destination.copy {
            copy.show();
            self.source.outdated = self.source.copy != Copy::Gone;
        }
    }

    /// The source's copy is removed.
    pub fn remove_source(&mut self) {
        self.source.copy = Copy::Gone;
        self.source.outdated = false;
    }

    /// No two copies are visible at once, and none is visible after the other one has run on
    /// without it.
    pub fn one_copy_at_most(&self) -> bool {
        let here = self.source.copy == Copy::Running;
        let there = self.destination.copy.filter(|copy| copy.visible());
        !(here && (there.is_some() || self.source.outdated))
            && !there.is_some_and(|copy| copy.outdated)
    }

    /// There is a copy in the latest state, which runs or can run.
    pub fn one_copy_at_least(&self) -> bool {
        let here = self.source.copy != Copy::Gone && !self.source.outdated;
        let there = self.destination.copy.is_some_and(|copy| {
            !copy.outdated && copy.restored() && self.destination.committed(copy.migration)
        });
        here || there
    }

    /// Nothing leaves the destination before the commit is on disk.
    pub fn nothing_leaves_before_the_commit(&self) -> bool {
        self.destination
            .copy
            .is_none_or(|copy| !copy.visible() || self.destination.committed(copy.migration))
    }

    /// The source's copy goes only after what came with the other one is on disk.
    pub fn removed_last(&self) -> bool {
        let on_disk = |copy: crate::destination::Arrival| {
            let record = self.destination.journal[copy.migration];
            record.is_some_and(|record| record.progress == Progress::OnDisk)
        };
        self.source.copy != Copy::Gone || self.destination.copy.is_some_and(on_disk)
    }

    /// Nobody is at work, one copy runs, and nothing is frozen or left to finish.
    pub fn settled(&self) -> bool {
        let copy = self.destination.copy;
        let moved = self.source.copy == Copy::Gone && copy.is_some_and(|copy| copy.visible());
        let stayed = self.source.copy == Copy::Running
            // An undo that has failed is reported, and tried again at the next start.
            && (copy.is_none() || self.destination.undo_failed);
        (moved || stayed)
            && self.source.idle()
            && self.destination.up
            && self.network.sessions().next().is_none()
    }
}
