//! What people start, each moved there and back while its own client asks: `scripts/programs`.
//!
//! * `PROGRAMS`: which: words separated by commas, one of which is in the name of the program; by default all;
//! * `PROGRAMS_TABLE`: the file that gets the results.

mod client;
mod program;

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use client::Client;
use program::{ALL, Program};
use serde_json::Value;
use tests::{Fixture, Setup, eventually};

/// Both have the containers in turn; the clients are on `c`.
const HOSTS: [&str; 2] = ["a", "b"];

#[test]
fn what_people_start_moves_there_and_back() {
    if !lab::can_run() {
        return;
    }
    let f = hosts("m-programs");
    let before = f.look(&HOSTS);
    let words = std::env::var("PROGRAMS").unwrap_or_default();
    let chosen = |name: &str| words.split(',').any(|word| name.contains(word.trim()));
    let mut table = String::from(
        "| program | what is special about it, and what is checked | outcome | frozen there, ms | and back, ms \
         | the longest freeze, ms | what its client saw |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let mut failed = Vec::new();
    let mut row_of = |name: &'static str, about, run: &dyn Fn() -> String| {
        if !chosen(name) {
            return;
        }
        println!("{name}");
        let result = catch_unwind(AssertUnwindSafe(run));
        let row = result.unwrap_or_else(|_| {
            failed.push(name);
            tell(&f);
            "**failed** | | | | |".to_owned()
        });
        let row = format!("| {name} | {about} | {row}");
        println!("{row}");
        let _ = writeln!(table, "{row}");
        // Written after each, so that an interrupted run leaves its results.
        if let Some(file) = std::env::var_os("PROGRAMS_TABLE") {
            std::fs::write(file, &table).expect("the table can be written");
        }
        clear(&f);
    };
    for program in &ALL {
        row_of(program.name, program.about, &|| there_and_back(&f, program));
    }
    let about = "WireGuard in userspace, and a rule that lets nothing out but through it";
    row_of("VPN", about, &|| stays(&f));
    assert!(
        table.lines().count() > 2,
        "no program is called like {words}"
    );
    assert!(failed.is_empty(), "{failed:?}");

    f.assert_as_before(&before);
}

/// A program that has set up its own network would not have it at the destination. Returns the rest of the row.
fn stays(f: &Fixture) -> String {
    let options = "--cap-add NET_ADMIN --device /dev/net/tun localhost/programs /programs/vpn";
    f.start("a", "vpn", options);
    let rules = || f.in_network_of("a", "vpn", "nft list ruleset");
    eventually(Duration::from_secs(30), || {
        let now = rules();
        let ready = now.contains("killswitch");
        ready.then_some(()).ok_or(now)
    });
    let before = rules();
    let check = f.run("a", &["agent-client", "check", "vpn", "--to", "b"]);
    assert_eq!(check.status.code(), Some(4), "{check}");
    let words = ["wg0", "nftables table inet killswitch", "/dev/net/tun"];
    let said = check.to_string();
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    f.migrate("a", "vpn", "b").assert_failed(4, &words);
    assert_eq!(f.state("a", "vpn"), "running");
    assert_eq!(rules(), before);
    assert!(f.containers("b").is_empty());
    "refused by `check`, which names all three; it runs on, with its rules | | | | |".to_owned()
}

fn hosts(lab: &str) -> Fixture {
    let images = &["programs"][..];
    let f = Fixture::with(
        lab,
        Setup {
            hosts: &["a", "b", "c"],
            servers: &HOSTS,
            pairs: &[("a", "b"), ("b", "a")],
            images: &[("a", images), ("b", images), ("c", images)],
            services: false,
        },
    );
    for host in HOSTS {
        f.let_criu_dump_other_users(host);
    }
    f
}

/// Returns the rest of the row.
fn there_and_back(f: &Fixture, program: &Program) -> String {
    if program
        .containers
        .iter()
        .any(|c| c.options.contains("--network back"))
    {
        f.add_network(&HOSTS, "back", "--subnet 10.99.0.0/24");
    }
    for container in program.containers {
        let (options, command) = (container.options, container.command);
        let options = format!("{options} localhost/programs /programs/{command}");
        f.start("a", container.name, &options);
    }
    let answers = program.answers;
    let mut client = Client::start(f, program.client, HOSTS[0], program.containers, answers);
    let (mut there, mut back) = (Vec::new(), Vec::new());
    let mut longest = (0, String::new());
    let mut is_at = vec![0; program.containers.len()];
    for &which in program.moves {
        let name = program.containers[which].name;
        let from = is_at[which];
        is_at[which] = 1 - from;
        let (from, to) = (HOSTS[from], HOSTS[1 - from]);
        let check = f.run(from, &["agent-client", "check", name, "--to", to]);
        assert!(check.status.success(), "{check}");
        let migration = f.migrate(from, name, to);
        migration.assert_moved();
        println!("{}", migration.report);
        let warnings = migration.report["warnings"].as_array().expect("a list");
        // Of two on one network the one that stays cannot be found by its name any more.
        let others = warnings
            .iter()
            .filter(|w| !w.to_string().contains("names: "));
        assert_eq!(others.count(), 0, "{warnings:?}");
        let freeze_ms = migration.report["freeze_ms"].as_u64().expect("a number");
        let of = match program.containers {
            [_] => String::new(),
            _ => format!("{name} "),
        };
        let list = if from == HOSTS[0] {
            &mut there
        } else {
            &mut back
        };
        list.push(format!("{of}{freeze_ms}"));
        if freeze_ms >= longest.0 {
            longest = (freeze_ms, outage(&migration.report));
        }
        client.goes_on(answers);
    }
    let seen = client.finish();
    if !program.after.is_empty() {
        f.sh("a", program.after);
    }
    format!(
        "moved | {} | {} | {} | {} answers whole on {} connections, stall {} ms |",
        there.join(", "),
        back.join(", "),
        longest.1,
        seen["answers"],
        seen["connections"],
        seen["stall_ms"]
    )
}

/// How long each phase took from the freeze on, and what was sent in it.
fn outage(report: &Value) -> String {
    let phases = report["phases"].as_array().expect("a list");
    let of_outage = phases.iter().skip_while(|phase| phase["name"] != "freeze");
    let told = of_outage
        .take_while(|phase| phase["name"] != "remove")
        .map(|phase| {
            let name = phase["name"].as_str().expect("a name");
            let sent = match phase["bytes"].as_u64().expect("a number") >> 20 {
                0 => String::new(),
                mib => format!(" ({mib} MiB)"),
            };
            format!("{} {}{sent}", name.replace('_', " "), phase["duration_ms"])
        });
    told.collect::<Vec<_>>().join(", ")
}

/// Prints what the containers have said, wherever they are.
fn tell(f: &Fixture) {
    for host in HOSTS {
        let script =
            "podman ps -a; for id in $(podman ps -aq); do podman logs --tail 20 $id 2>&1; done";
        println!("on {host}:\n{}", f.run(host, &["sh", "-c", script]));
    }
}

/// Removes the containers and what they kept, wherever they are.
fn clear(f: &Fixture) {
    for host in HOSTS {
        f.sh(
            host,
            "podman rm -fat0 && podman volume rm -fa && podman network rm -f back",
        );
    }
}
