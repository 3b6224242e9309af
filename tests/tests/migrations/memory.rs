//! Memory goes ahead of the outage.

use std::time::Duration;

use nix::sys::signal::Signal;
use tests::{Fixture, Migration, eventually};

/// How much longer a container with 500 MiB may stand still than one with hardly any.
const MOST_TIMES: u64 = 5;

#[test]
fn much_of_it_hardly_lengthens_the_outage() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-memory", &["ballast"]);
    let before = f.look(&["a", "b"]);
    let freeze = |name: &str, options: &str| {
        start(&f, name, options);
        let client = f.client("echo", &f.at("a", 7000), &[]);
        let moved = f.migrate("a", name, "b");
        moved.assert_moved();
        client.finish_whole();
        assert_whole(&f, options);
        assert_all_has_come(&f);
        f.sh("b", &format!("podman rm -ft0 {name}"));
        f.wait_without_tunnel("a");
        f.wait_without_tunnel("b");
        moved
    };
    let small = freeze("small", "--mib 4");
    assert!(small.report["memory"].is_null(), "{:#}", small.report);
    assert!(small.phase("memory").is_none());

    let large = freeze("large", "--mib 250 --others 1");
    assert_ahead(&large, 500);
    let (short, long) = (frozen_ms(&small), frozen_ms(&large));
    println!("frozen {short} ms with 4 MiB, {long} ms with 500 MiB");
    assert!(
        long < MOST_TIMES * short,
        "{long} ms instead of {short} ms: {:#}",
        large.report
    );
    f.assert_as_before(&before);
}

/// Starts the program with these options, and waits until it has its memory.
fn start(f: &Fixture, name: &str, options: &str) {
    let ports = "-p 7000:7000 -p 7001:7001";
    f.start("a", name, &format!("{ports} localhost/ballast {options}"));
    wait_until_it_listens(f, "a", name);
}

/// MariaDB maps 8 TiB and uses little of it; programs in Java, Go and Haskell map much as well.
#[test]
fn a_program_that_has_mapped_far_more_than_it_uses_moves() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-mapped", &["ballast"]);
    let before = f.look(&["a", "b"]);
    let options = "--mib 100 --reserved-gib 8192";
    start(&f, "ballast", options);
    let client = f.client("echo", &f.at("a", 7000), &[]);
    let check = f.run("a", &["agent-client", "check", "ballast", "--to", "b"]);
    assert!(check.status.success(), "{check}");
    let moved = f.migrate("a", "ballast", "b");
    moved.assert_moved();
    assert!(moved.report["memory"].is_null(), "{:#}", moved.report);
    assert!(check.to_string().contains("8.0 TiB"), "{check}");
    client.finish_whole();
    assert_whole(&f, options);
    f.sh("b", "podman rm -ft0 ballast");
    f.wait_without_tunnel("a");
    f.wait_without_tunnel("b");
    f.assert_as_before(&before);
}

#[test]
fn an_agent_that_ends_while_memory_goes_ahead_leaves_no_trace() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-memory-ends", &["ballast"]);
    let before = f.look(&["a", "b"]);
    let options = "--mib 300 --hot-mib 8";
    start(&f, "ballast", options);
    let mut client = f.client("echo", &f.at("a", 7000), &[]);
    let in_proc = |what: &str| {
        let pid = "$(podman inspect -f '{{.State.Pid}}' ballast)";
        f.sh("a", &format!("cd /proc/{pid}; {what}"))
    };
    // Memory whose changes the kernel follows: `uw` in proc_pid_smaps(5).
    let followed = || in_proc("grep -c '^VmFlags:.* uw' smaps || true") != "0";
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let migration = f.begin("a", "ballast", "b", &[]);
        eventually(Duration::from_secs(90), || {
            followed().then_some(()).ok_or("nothing is followed".into())
        });
        migration.signal(signal);
        let ended = Migration::of(migration);
        assert!(!ended.output.status.success(), "{}", ended.output);
        // The kernel does it when the last holder is gone.
        eventually(Duration::from_secs(10), || {
            (!followed())
                .then_some(())
                .ok_or("memory is still followed".into())
        });
        assert_eq!(in_proc("ls -l fd | grep -c userfaultfd || true"), "0");
        assert_eq!(in_proc("grep TracerPid status"), "TracerPid:\t0");
        if signal == Signal::SIGKILL {
            f.sh("a", "agent-client recover");
        }
        client.assert_runs();
        assert_eq!(f.state("a", "ballast"), "running");
        assert_whole_at(&f, "a", options);
    }
    f.migrate("a", "ballast", "b").assert_moved();
    client.finish_whole();
    assert_whole(&f, options);
    assert_all_has_come(&f);
    f.sh("b", "podman rm -ft0 ballast");
    f.wait_without_tunnel("a");
    f.wait_without_tunnel("b");
    f.assert_as_before(&before);
}

fn frozen_ms(moved: &Migration) -> u64 {
    moved.report["freeze_ms"].as_u64().expect("a number")
}

/// That at least so many MiB went ahead, and hardly any in the outage.
fn assert_ahead(moved: &Migration, mib: u64) {
    let memory = &moved.report["memory"];
    let bytes = |name: &str| memory[name].as_u64().expect("a number");
    assert!(bytes("ahead_bytes") >= mib << 20, "{memory:#}");
    assert!(bytes("outage_bytes") < mib << 20 >> 2, "{memory:#}");
    assert!(memory["rounds"].as_u64() >= Some(2), "{memory:#}");
    assert!(moved.phase("memory").is_some());
    println!("{memory}");
}

fn wait_until_it_listens(f: &Fixture, host: &str, name: &str) {
    eventually(Duration::from_secs(60), || {
        let said = f.sh(host, &format!("podman logs {name} 2>&1"));
        said.contains("listening on").then_some(()).ok_or(said)
    });
}

/// Has the container look at all its memory.
fn assert_whole(f: &Fixture, options: &str) {
    assert_whole_at(f, "b", options);
}

fn assert_whole_at(f: &Fixture, host: &str, options: &str) {
    let said = f.sh("c", &format!("nc -d {host} 7001"));
    assert!(said.contains("are whole"), "{options}: {said:?}");
    assert!(!said.contains("BROKEN"), "{options}: {said:?}");
}

/// When the last of it has come, nothing is left of what it came with.
fn assert_all_has_come(f: &Fixture) {
    eventually(Duration::from_secs(30), || {
        let left = f.sh(
            "b",
            "ls /run/live-migration/memory 2>/dev/null || true; pgrep -f '^memory-pager' || true",
        );
        left.is_empty().then_some(()).ok_or(left)
    });
}
