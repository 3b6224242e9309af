//! Breaks everything that can break, at every place, and checks that the container is never lost.
//!
//! A few cases run every day. `scripts/faults` runs the whole matrix: it sets
//!
//! * `FAULTS`: which cases: words separated by commas, one of which has to be in a case's name; or
//!   `all`;
//! * `FAULTS_LABS`: how many labs to use in parallel;
//! * `FAULTS_TABLE`: the file that gets the table.

mod case;
mod hung;
mod lies;
mod run;
mod table;
mod world;

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use case::Case;
use run::Row;
use world::World;

/// A case and its result; `Err` says what is wrong.
type Verdict = (Case, Result<Row, String>);

#[test]
fn the_container_is_never_lost() {
    if !lab::can_run() {
        return;
    }
    let cases = match std::env::var("FAULTS") {
        Ok(words) => chosen(&words),
        Err(_) => case::sample(),
    };
    let labs = std::env::var("FAULTS_LABS").map_or(1, |n| n.parse().expect("a number"));
    let begun = Instant::now();
    let order: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
    let queue = Mutex::new(VecDeque::from(cases));
    let verdicts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..labs {
            let (queue, verdicts) = (&queue, &verdicts);
            scope.spawn(move || work(&format!("f-{number}"), queue, verdicts));
        }
    });
    let mut verdicts: Vec<Verdict> = verdicts.into_inner().expect("no thread panics");
    verdicts.sort_by_key(|(case, _)| order.iter().position(|name| *name == case.name));
    let table = table::table(&verdicts, begun.elapsed());
    println!("{table}");
    if let Some(file) = std::env::var_os("FAULTS_TABLE") {
        std::fs::write(file, &table).expect("the table can be written");
    }
    let failed = verdicts.iter().filter(|(_, row)| row.is_err()).count();
    assert_eq!(failed, 0, "cases failed");
}

fn chosen(words: &str) -> Vec<Case> {
    let mut cases = case::all();
    if words != "all" {
        cases.retain(|case| words.split(',').any(|word| case.name.contains(word.trim())));
    }
    assert!(!cases.is_empty(), "no case is called like {words}");
    cases
}

/// Runs cases until none is left. After a failed case the next begins in a new lab: otherwise it
/// could fail because of what the first has left behind.
fn work(lab: &str, queue: &Mutex<VecDeque<Case>>, verdicts: &Mutex<Vec<Verdict>>) {
    let mut world: Option<World> = None;
    loop {
        let Some(case) = queue.lock().expect("no panic while locked").pop_front() else {
            break;
        };
        let row = attempt(|| {
            let row = run::run(world.get_or_insert_with(|| World::new(lab)), &case);
            if case.connections_may_break {
                // Its hosts can no longer be compared with how they were before.
                world.take().expect("it ran there").end();
            }
            row
        });
        if row.is_err() {
            // Dropping it in a panic prints what the agents said.
            let _ = attempt(|| {
                let _world = world.take();
                panic!("so that servers tell what they said");
            });
        }
        println!("{lab}  {}", table::line(&case, &row));
        verdicts
            .lock()
            .expect("no panic while locked")
            .push((case, row));
    }
    if let Some(world) = world
        && let Err(why) = attempt(|| world.end())
    {
        let mut case = case::all().remove(0);
        case.name = format!("the end of {lab}");
        case.what = "nothing is left when all is over".into();
        verdicts
            .lock()
            .expect("no panic while locked")
            .push((case, Err(why)));
    }
}

fn attempt<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| words(&*panic))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_default()
}

/// Minutes and seconds.
fn minutes(time: Duration) -> String {
    format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60)
}
