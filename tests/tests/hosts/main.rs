//! Migrations between hosts with a distribution's defaults: `scripts/test --systemd`.
//!
//! * `HOSTS`: which cases: words separated by commas, one of which has to be in the name of the case or of
//!   its hosts; by default all;
//! * `HOSTS_TABLE`: the file that gets the tables.

mod case;
mod readme;
mod table;
mod world;

use std::collections::BTreeMap;

use case::Case;
use lab::{Distribution, Kind};
use world::{World, attempt};

/// The result of a case; `Err` says what is wrong.
pub(crate) struct Verdict {
    hosts: [Distribution; 2],
    name: &'static str,
    frozen: Vec<u64>,
    seen: Result<String, String>,
}

#[test]
fn a_container_moves_between_hosts_as_people_have_them() {
    if !matches!(tests::kind(), Kind::Systemd(_)) {
        eprintln!("skipped: needs hosts with a distribution's defaults (LAB_KIND=trixie)");
        return;
    }
    if !lab::can_run_machines() {
        return;
    }
    let mut world: Option<([Distribution; 2], World)> = None;
    let mut versions = BTreeMap::new();
    let mut verdicts = Vec::new();
    for case in chosen() {
        // One pair at a time: two virtual machines need two processors.
        if world
            .as_ref()
            .is_some_and(|(hosts, _)| *hosts != case.hosts)
        {
            world = None;
        }
        let verdict = run(&case, &mut world);
        if let Some((hosts, world)) = &world {
            for (distribution, host) in hosts.iter().zip(["a", "b"]) {
                let known = versions.entry(distribution.to_string());
                known.or_insert_with(|| world.versions(host));
            }
        }
        if verdict.seen.is_err() {
            if let Some((_, world)) = &world {
                world.tell();
            }
            // The next case begins on fresh hosts: otherwise it could fail because of what this one
            // has left behind.
            world = None;
        }
        println!("{}", table::line(&verdict));
        if let Err(why) = &verdict.seen {
            println!("{why}");
        }
        verdicts.push(verdict);
        // Written after each case, so that an interrupted run leaves its results.
        if let Some(file) = std::env::var_os("HOSTS_TABLE") {
            let tables = table::tables(&versions, &verdicts);
            std::fs::write(file, tables).expect("the tables can be written");
        }
    }
    drop(world);
    println!("{}", table::tables(&versions, &verdicts));
    let failed = verdicts.iter().filter(|verdict| verdict.seen.is_err());
    assert_eq!(failed.count(), 0, "cases failed");
}

fn run(case: &Case, world: &mut Option<([Distribution; 2], World)>) -> Verdict {
    let mut frozen = Vec::new();
    let seen = attempt(|| {
        let (_, world) = world.get_or_insert_with(|| (case.hosts, World::new(case.hosts)));
        let seen = (case.run)(world);
        frozen = world.frozen();
        seen.and_then(|seen| world.tidy().map(|()| seen))
    });
    Verdict {
        hosts: case.hosts,
        name: case.name,
        frozen,
        seen: seen.and_then(|seen| seen),
    }
}

fn chosen() -> Vec<Case> {
    let words = std::env::var("HOSTS").unwrap_or_default();
    let mut cases = case::all();
    cases.retain(|case| {
        let [a, b] = case.hosts;
        let name = format!("{a} to {b}: {}", case.name);
        words.split(',').any(|word| name.contains(word.trim()))
    });
    assert!(!cases.is_empty(), "no case is called like {words}");
    cases
}
