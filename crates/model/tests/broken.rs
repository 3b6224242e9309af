//! The exploration finds what it is meant to find: with one decision broken, a property fails.

use std::collections::BTreeSet;

use common::journal::Progress;
use common::protocol::Fate;
use common::transaction::{self, SourceStep};
use model::{Decisions, Faults, Migrations};
use stateright::{Checker, HasDiscoveries, Model};

/// Enough faults for each of these mistakes to matter.
const FAULTS: Faults = Faults {
    source_crashes: 1,
    destination_crashes: 1,
    breaks: 1,
    failures: 1,
    cancels: 0,
    returns: 1,
};

/// Explores until `property` fails.
#[track_caller]
fn breaks(property: &'static str, decisions: Decisions) {
    let checker = Migrations::new(FAULTS, decisions)
        .checker()
        .finish_when(HasDiscoveries::AnyOf(BTreeSet::from([property])))
        .spawn_bfs()
        .join();
    let path = checker.assert_any_discovery(property);
    println!("{property}: {} steps", path.into_actions().len());
}

#[test]
fn a_source_that_thaws_when_it_is_tired_of_asking() {
    fn source(record: Progress, answer: Option<Fate>, frozen: bool) -> Option<SourceStep> {
        match (record, answer) {
            (Progress::Committing, Some(Fate::UnderWay)) => Some(SourceStep::Thaw),
            _ => transaction::source(record, answer, frozen),
        }
    }
    let decisions = Decisions {
        source,
        ..Decisions::default()
    };
    breaks("never two copies", decisions);
    breaks("no thaw without proof", decisions);
}

#[test]
fn a_source_that_removes_what_has_come_back() {
    fn source(record: Progress, answer: Option<Fate>, _frozen: bool) -> Option<SourceStep> {
        transaction::source(record, answer, true)
    }
    breaks(
        "never none",
        Decisions {
            source,
            ..Decisions::default()
        },
    );
}

#[test]
fn a_source_that_does_not_write_down_that_it_commits() {
    breaks(
        "never two copies",
        Decisions {
            announce: false,
            ..Decisions::default()
        },
    );
}

#[test]
fn a_source_that_takes_a_commit_for_the_end() {
    fn unsettled(record: Progress, _scratch: bool) -> bool {
        matches!(record, Progress::UnderWay | Progress::Committing)
    }
    breaks(
        "can settle",
        Decisions {
            unsettled,
            ..Decisions::default()
        },
    );
}

#[test]
fn a_source_that_migrates_what_may_have_gone() {
    breaks(
        "never two copies",
        Decisions {
            migrate_unsettled: true,
            ..Decisions::default()
        },
    );
}

#[test]
fn a_destination_that_lets_packets_out_before_it_writes() {
    breaks(
        "no output before the commit",
        Decisions {
            record_first: false,
            ..Decisions::default()
        },
    );
}

#[test]
fn a_destination_that_answers_in_the_middle_of_a_commit() {
    breaks(
        "never none",
        Decisions {
            fate: |record, _at_work| transaction::fate(record, false),
            ..Decisions::default()
        },
    );
}

#[test]
fn a_destination_that_undoes_an_old_migration_after_a_new_one() {
    breaks(
        "never none",
        Decisions {
            destination: |record, _arrived_since| transaction::destination(record, false),
            ..Decisions::default()
        },
    );
}

#[test]
fn a_destination_that_gives_up_an_undo_that_failed() {
    breaks(
        "can settle",
        Decisions {
            settle_when_asked: false,
            ..Decisions::default()
        },
    );
}

#[test]
fn a_destination_that_forgets_to_let_packets_out() {
    breaks(
        "can settle",
        Decisions {
            destination: |record, arrived_since| match record {
                Progress::Committed => None,
                _ => transaction::destination(record, arrived_since),
            },
            ..Decisions::default()
        },
    );
}
