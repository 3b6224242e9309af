//! Power cuts in the middle of migrations: `scripts/power`.
//!
//! * `POWER`: which cases: words separated by semicolons, one of which has to be in the name of the case; by
//!   default all;
//! * `POWER_TABLE`: the file that gets the table.

mod case;
mod run;
mod table;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use case::Case;
use lab::Kind;
use world::World;

/// A case and what was seen; `Err` says what is wrong.
type Verdict = (Case, Result<String, String>);

#[test]
fn what_was_on_disk_survives_a_power_cut() {
    let can_run = match tests::kind() {
        Kind::Disk => lab::can_run(),
        Kind::Machine => lab::can_run_machines(),
        _ => {
            eprintln!(
                "skipped: needs hosts that can lose what is not on disk (LAB_KIND=disk or vm)"
            );
            false
        }
    };
    if !can_run {
        return;
    }
    let mut world: Option<World> = None;
    let mut verdicts: Vec<Verdict> = Vec::new();
    for case in chosen() {
        let mut seen = attempt(|| run::run(world.get_or_insert_with(World::new), &case));
        let failed = seen.is_err();
        if let Some(control) = case.control {
            seen = match seen {
                Err(why) if why.contains(control.words) => Ok("is noticed".into()),
                Err(why) => Err(why),
                Ok(seen) => Err(format!("not noticed: {seen}")),
            };
        }
        if failed {
            // The next case begins on fresh hosts: otherwise it could fail because of what this one
            // has left behind. Dropped in a panic, the world prints what the servers have said.
            let _ = attempt(|| {
                let _world = world.take();
                panic!("so that servers tell what they said");
            });
        }
        println!("{}", table::line(&case, &seen));
        verdicts.push((case, seen));
    }
    let table = table::table(&verdicts);
    println!("{table}");
    if let Some(file) = std::env::var_os("POWER_TABLE") {
        std::fs::write(file, &table).expect("the table can be written");
    }
    let failed = verdicts.iter().filter(|(_, seen)| seen.is_err()).count();
    assert_eq!(failed, 0, "cases failed");
}

fn chosen() -> Vec<Case> {
    let mut cases = case::all();
    if let Ok(words) = std::env::var("POWER") {
        cases.retain(|case| words.split(';').any(|word| case.name.contains(word.trim())));
    }
    assert!(!cases.is_empty(), "no case has such a name");
    cases
}

fn attempt<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default()
    })
}
