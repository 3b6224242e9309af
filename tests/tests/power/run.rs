//! One case: migrate, cut the power, boot, recover, look.

use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::{Job, eventually};

use crate::case::{Case, Expected, FILES_SENT};
use crate::world::{HOSTS, NAME, World};

/// Longer than anything takes; longer still for virtual machines.
const LIMIT: Duration = Duration::from_secs(100);
/// Longer than a virtual machine takes to come to a place.
const SLOW_LIMIT: Duration = Duration::from_secs(900);
/// The status of a command that leaves something open.
const OPEN: i32 = 3;

/// Where the container writes: its root, and a volume.
const EARLY: [&str; 2] = ["/early", "/data/early"];
/// The same, after its files were sent for the first time.
const LATE: [&str; 2] = ["/late", "/data/late"];

/// Runs a case and returns what was seen; panics with what is wrong.
pub(crate) fn run(world: &mut World, case: &Case) -> String {
    let begun = Instant::now();
    world.start(if case.rm { "--rm" } else { "" });
    let mut written: Vec<&str> = EARLY.to_vec();
    for path in EARLY {
        world.write(path);
    }
    let goes_on = !matches!(case.place, Some("server.stage.after" | FILES_SENT));
    let mut places = Vec::new();
    places.extend(goes_on.then_some(FILES_SENT));
    places.extend(case.place);
    let held = |agent: &str| {
        let places = places.iter().filter(|place| place.starts_with(agent));
        let holds = places.map(|place| format!("{place}=1*return(hold)"));
        let left_out = case.control.map(|control| control.fault.to_owned());
        holds.chain(left_out).collect::<Vec<_>>().join(";")
    };
    world.f.serve_with("b", &[("FAILPOINTS", &held("server"))]);
    let client = held("client");
    let environment = [("FAILPOINTS", client.as_str())];
    let mut job = world.f.begin_with("a", NAME, "b", &[], &environment);
    for place in &places {
        reach(world, &mut job, place);
        if *place == FILES_SENT && goes_on {
            for path in LATE {
                world.write(path);
                written.push(path);
            }
            world
                .f
                .sh("a", &format!("rm /run/live-migration/held/{place}"));
        }
    }
    let mut said = String::new();
    if case.place.is_none() {
        let moved = job.wait(LIMIT);
        assert_eq!(moved.status.code(), Some(0), "{moved}");
        said += "moved; ";
        sleep(case.after);
        world.cut_power(case.cut);
    } else {
        world.cut_power(case.cut);
        // A client that lives on notices and comes to its end; one that is held as well is released.
        if !case.cuts("a") {
            world.f.sh("a", "rm -f /run/live-migration/held/*");
            let ended = job.wait(LIMIT);
            said += match ended.status.code() {
                Some(0) => "moved; ",
                Some(1) => "rolled back; ",
                Some(OPEN) => "open; ",
                _ => panic!("{ended}"),
            };
        }
        if !case.cuts("b") {
            world.f.sh("b", "rm -f /run/live-migration/held/*");
        }
    }
    let holder = match case.expected {
        Expected::Source | Expected::Operator => "a",
        Expected::Destination | Expected::DestinationAndStopped => "b",
    };
    // Before Podman is started again.
    let mut found = Vec::new();
    for path in &written {
        // What a container writes to a volatile root is gone with its own host's power.
        if case.rm && case.cuts("a") && holder == "a" && !path.starts_with("/data/") {
            continue;
        }
        found.push(format!("{path} {}", world.look(holder, path)));
    }
    for host in HOSTS.into_iter().filter(|host| case.cuts(host)) {
        world.f.serve(host);
    }
    if case.place.is_none() {
        // Its removal was on disk when the agent said that it had moved.
        assert_eq!(world.state("a"), "", "it is back");
    }
    said += &recover(world, case);
    for line in &found {
        assert!(line.ends_with(" whole"), "on {holder}: {found:?}; {said}");
    }
    said += &settle(world, case);
    world.f.serve("b");
    let seconds = begun.elapsed().as_secs();
    println!("{}: {seconds} s", case.name);
    said
}

/// Waits until an agent is held at a place.
fn reach(world: &World, job: &mut Job, place: &str) {
    let host = if place.starts_with("client") {
        "a"
    } else {
        "b"
    };
    // The host itself looks: each command costs as much as a step of the migration.
    let wait = format!(
        "i=0
         until [ -e /run/live-migration/held/{place} ]; do
             i=$((i + 1)); [ $i -lt 50 ] || exit 1; sleep 0.2
         done"
    );
    let deadline = Instant::now() + SLOW_LIMIT;
    while world.f.run(host, &["sh", "-c", &wait]).status.code() != Some(0) {
        if job.ended().is_some() {
            panic!("it ended before {place}: {}{}", job.stdout(), job.stderr());
        }
        assert!(Instant::now() < deadline, "it does not come to {place}");
    }
}

/// Runs recovery at the source until it says something that stays so.
fn recover(world: &World, case: &Case) -> String {
    let expected = match case.expected {
        Expected::Operator => OPEN,
        _ => 0,
    };
    let limit = match case.control {
        Some(_) => Duration::ZERO,
        None => LIMIT,
    };
    eventually(limit, || {
        let recover = world.f.run("a", &["agent-client", "recover"]);
        let words = format!("{}{}", recover.stdout, recover.stderr);
        if recover.status.code() != Some(expected) {
            return Err(format!("{recover}"));
        }
        // As long as the destination undoes something, the answer can still change.
        if expected == OPEN && !words.contains("resolve") {
            return Err(format!("{recover}"));
        }
        // It has been said once.
        let finished = ["finished", "is stopped here"];
        if case.expected == Expected::DestinationAndStopped
            && !finished.iter().all(|word| words.contains(word))
        {
            return Err(format!("{recover}"));
        }
        let said = ["undone", "finished", "resolve"]
            .into_iter()
            .find(|word| words.contains(word));
        Ok(said.map_or(String::new(), |said| match said {
            "resolve" => "recovery leaves it to the operator; ".into(),
            said => format!("recovery: {said}; "),
        }))
    })
}

/// Checks where the container is, and cleans up for the next case.
fn settle(world: &mut World, case: &Case) -> String {
    let states = HOSTS.map(|host| world.state(host));
    let [a, b] = states.each_ref().map(String::as_str);
    let running = [a, b].iter().filter(|state| **state == "running").count();
    assert!(running <= 1, "two copies run");
    let stopped = |state: &str| matches!(state, "exited" | "created" | "stopped");
    match case.expected {
        Expected::Source => {
            let lost = case.cuts("a");
            assert!(
                if lost { stopped(a) } else { a == "running" },
                "{a:?} {b:?}"
            );
            world.assert_gone("b");
        }
        Expected::Destination => {
            world.assert_gone("a");
            // Podman removes a container with --rm that it finds after a restart.
            let lost = case.cuts("b");
            let fine = match lost {
                true => stopped(b) || case.rm && b.is_empty(),
                false => b == "running",
            };
            assert!(fine, "{a:?} {b:?}");
        }
        Expected::DestinationAndStopped => {
            assert!(stopped(a), "{a:?} {b:?}");
            let lost = case.cuts("b");
            assert!(
                if lost { stopped(b) } else { b == "running" },
                "{a:?} {b:?}"
            );
        }
        Expected::Operator => {
            assert!(stopped(b), "{a:?} {b:?}");
            decide(world);
            let a = world.state("a");
            assert!(
                if case.cuts("a") {
                    stopped(&a)
                } else {
                    a == "running"
                },
                "{a:?}"
            );
        }
    }
    for host in HOSTS {
        world.remove(host);
        world.assert_gone(host);
    }
    let state = |host: &str, state: &str| match state {
        "" => format!("nothing at the {host}"),
        state => format!("{state} at the {host}"),
    };
    format!("{}, {}", state("source", a), state("destination", b))
}

/// The operator has compared, and keeps what the source has.
fn decide(world: &World) {
    let resolve = "id=$(agent-client status --format json | python3 -c '
import json, sys
print(json.load(sys.stdin)[\"migrations\"][0][\"migration\"])')
agent-client resolve $id --keep source";
    world.f.sh("a", resolve);
}
