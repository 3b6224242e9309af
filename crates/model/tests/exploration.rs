//! Every state that migrations can reach under a number of faults.
//!
//! Run with `--nocapture` to see how many those are.

use model::{Decisions, Faults, Migrations};
use stateright::{Checker, Model};

fn explore(faults: Faults) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = Migrations::new(faults, Decisions::default())
        .checker()
        .threads(threads)
        .spawn_bfs()
        .join();
    println!(
        "{faults:?}: {} states, {} steps, {} deep",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    checker.assert_properties();
}

#[test]
fn agents_are_killed_again_and_again() {
    explore(Faults {
        source_crashes: 2,
        destination_crashes: 2,
        breaks: 1,
        ..Faults::default()
    });
}

#[test]
fn connections_break() {
    explore(Faults {
        source_crashes: 1,
        destination_crashes: 1,
        breaks: 2,
        ..Faults::default()
    });
}

#[test]
fn steps_fail_and_so_does_their_undo() {
    explore(Faults {
        source_crashes: 1,
        breaks: 1,
        failures: 2,
        ..Faults::default()
    });
}

#[test]
fn everything_befalls_once() {
    explore(Faults {
        source_crashes: 1,
        destination_crashes: 1,
        breaks: 1,
        failures: 1,
        cancels: 1,
        returns: 0,
    });
}

#[test]
fn the_container_comes_back() {
    explore(Faults {
        source_crashes: 1,
        destination_crashes: 1,
        failures: 1,
        returns: 1,
        ..Faults::default()
    });
}
