//! What fails half-way is undone, and the clients never notice.

use std::time::{Duration, Instant};

use tests::{Fixture, eventually, pause};

/// For what comes soon: only how long something that is wrong is waited for.
const SOON: Duration = Duration::from_secs(300);

/// What a shell says of a command that was killed.
const KILLED: i32 = 137;

/// It failed, and the container runs on the source.
const FAILED: i32 = 1;

#[test]
fn a_dump_that_criu_refuses() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-no-dump", &["counter-open-file"]);
    f.start(
        "a",
        "open",
        "-p 9000:9000 -v kept:/data localhost/counter-open-file",
    );
    let mut client = f.client("count", &f.at("a", 9000), &[]);
    let before = f.look(&["a", "b"]);

    // It holds a removed file open, and CRIU is told not to dump any of that size.
    f.sh(
        "a",
        "mkdir -p /etc/criu; echo ghost-limit 1 >/etc/criu/runc.conf",
    );
    let migration = f.migrate("a", "open", "b");
    migration.assert_failed(FAILED, &["Error (criu/", "ghost"]);
    let said = migration.words();
    let log = said
        .split(|c: char| c.is_whitespace() || "\"'`,;()".contains(c))
        .map(|word| word.trim_end_matches(['.', ':']))
        .find(|word| word.starts_with('/') && word.ends_with(".log"))
        .unwrap_or_else(|| panic!("no log is named: {said}"));
    f.sh("a", &format!("grep -q Error {log}"));
    client.assert_runs();
    f.assert_talks("a", "open");
    f.assert_as_before(&before);

    f.sh("a", "rm /etc/criu/runc.conf");
    f.migrate("a", "open", "b").assert_moved();
    pause(300);
    client.finish_whole();
}

/// A CRIU that prints its version but fails whenever a runtime calls it.
const BROKEN_CRIU: &str = r#"#!/bin/sh
case "$*" in *swrk*) exit 1 ;; esac
exec /tmp/criu "$@"
"#;

#[test]
fn criu_fails_at_either_end() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-no-restore", &["echo"]);
    f.start(
        "a",
        "echo",
        "-p 7000:7000 -p 7000:7000/udp -v kept:/data localhost/echo",
    );
    let mut client = f.client("echo", &f.at("a", 7000), &["--connections", "10"]);
    let mut datagrams = f.client("echo", &f.at("a", 7000), &["--udp"]);
    // The kernel says more of a flow of datagrams once that is two seconds old (nf_conntrack_proto_udp.c).
    f.sh(
        "a",
        "until conntrack -L -p udp 2>/dev/null | grep -q ASSURED; do sleep 0.2; done",
    );
    let before = f.look(&["a", "b"]);

    for host in ["a", "b"] {
        f.sh(host, "cp /usr/sbin/criu /tmp/criu");
        f.host(host)
            .write("/tmp/broken", BROKEN_CRIU)
            .expect("a script fits");
        f.sh(
            host,
            "chmod +x /tmp/broken; mount --bind /tmp/broken /usr/sbin/criu; criu --version",
        );
        f.migrate("a", "echo", "b").assert_failed(FAILED, &["criu"]);
        // Lazily: something that has failed may not have ended yet.
        f.sh(host, "umount -l /usr/sbin/criu");
        client.assert_runs();
        datagrams.assert_runs();
        assert_eq!(f.state("a", "echo"), "running");
        assert!(f.containers("b").is_empty());
    }
    pause(500);
    f.assert_as_before(&before);

    f.migrate("a", "echo", "b").assert_moved();
    pause(500);
    client.finish_whole();
    datagrams.finish_whole();
}

/// A runtime that never gets to its checkpoint.
const HANGING: &str = r#"#!/bin/sh
case " $* " in
*" checkpoint --image-path "*) exec sleep 300 ;;
esac
exec /tmp/runc "$@"
"#;

#[test]
fn a_tunnel_goes_at_once_with_the_migration_that_made_it() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-no-tunnel", &["echo"]);
    f.start("a", "echo", "-p 7000:7000 localhost/echo");
    let mut client = f.client("echo", &f.at("a", 7000), &["--connections", "10"]);
    // When it fails, the connections have been redirected into the tunnel.
    let failing = HANGING.replace("exec sleep 300", "exit 1");
    f.sh("a", "cp /usr/sbin/runc /tmp/runc");
    let failing = f.host("a").write("/tmp/failing", &failing);
    failing.expect("a script fits");
    f.sh(
        "a",
        "chmod +x /tmp/failing; mount --bind /tmp/failing /usr/sbin/runc",
    );
    f.migrate("a", "echo", "b").assert_failed(FAILED, &["runc"]);
    // Its keeper would wait ten seconds.
    for host in ["a", "b"] {
        let links = f.sh(host, "ip -o link");
        assert!(!links.contains("lmwg"), "{host}: {links}");
    }
    client.assert_runs();
    client.finish_whole();
}

#[test]
fn a_dump_that_hangs() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-hangs", &["echo"]);
    f.start("a", "echo", "-p 7000:7000 localhost/echo");
    f.sh("a", "cp /usr/sbin/runc /tmp/runc");
    let hanging = f.host("a").write("/tmp/hanging", HANGING);
    hanging.expect("a script fits");
    f.sh("a", "chmod +x /tmp/hanging");
    let hang = || f.sh("a", "mount --bind /tmp/hanging /usr/sbin/runc");
    let end = || {
        f.sh("a", "umount -l /usr/sbin/runc");
        // Killed, but perhaps still to be waited for.
        eventually(Duration::from_secs(60), || {
            let left = f.sh("a", "pgrep -x sleep || true");
            left.is_empty().then_some(()).ok_or(left)
        });
    };
    let before = f.look(&["a", "b"]);

    // Without --max-freeze-ms, a hanging dump is told apart from a slow one; that takes longer than
    // a lab's connections last.
    hang();
    let stalled = tests::Migration::of(f.begin("a", "echo", "b", &[]));
    stalled.assert_failed(FAILED, &["made no progress"]);
    end();
    f.assert_as_before(&before);

    let mut client = f.client("echo", &f.at("a", 7000), &["--connections", "10"]);
    let before = f.look(&["a", "b"]);
    let late = ["--max-freeze-ms", "4000"];
    let failed = |job| {
        let migration = tests::Migration::of(job);
        migration.assert_failed(FAILED, &["not committed within the 4000 ms"]);
    };
    hang();
    failed(f.begin("a", "echo", "b", &late));
    client.assert_runs();
    // Also if somebody does not want to wait for it.
    let migration = f.begin("a", "echo", "b", &[]);
    f.sh("a", "until pgrep -x sleep; do sleep 0.05; done");
    let cancelled = tests::Migration::interrupted(migration);
    cancelled.assert_failed(FAILED, &["cancelled"]);
    client.assert_runs();
    end();

    // Kills CRIU while it traces the container's processes.
    let migration = f.begin("a", "echo", "b", &late);
    f.sh(
        "a",
        "status=/proc/$(podman inspect -f '{{.State.Pid}}' echo)/status
         while read -r name value; do
             case $name in TracerPid:) tracer=$value ;; esac
         done <$status
         while [ $tracer = 0 ]; do
             while read -r name value; do
                 case $name in TracerPid:) tracer=$value ;; esac
             done <$status
         done
         kill -STOP $tracer",
    );
    failed(migration);
    client.assert_runs();
    f.assert_as_before(&before);

    f.migrate("a", "echo", "b").assert_moved();
    pause(300);
    client.finish_whole();
}

/// A runtime whose CRIU finds the images damaged, and which takes its time to clean up after that,
/// like one that waits for systemd: until it is told that the container runs on, and a while longer.
const SLOW_TO_FAIL: &str = r#"#!/bin/sh
case " $* " in
*" restore "*) ;;
*) exec /tmp/runc "$@" ;;
esac
images=$(echo "$*" | sed -n 's/.*--image-path \([^ ]*\).*/\1/p')
truncate -s 9 "$images"/mountpoints-*.img
/tmp/runc "$@"
code=$?
touch /tmp/failed
for i in $(seq 300); do
    [ -e /tmp/thawed ] && break
    sleep 0.1
done
sleep 5
touch /tmp/cleaned-up
exit $code
"#;

#[test]
fn a_failed_restore_is_known_before_it_is_cleaned_up() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-known", &["counter"]);
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let mut client = f.client("count", &f.at("a", 9000), &[]);
    let before = f.look(&["a", "b"]);

    f.sh("b", "cp /usr/sbin/runc /tmp/runc");
    let slow = f.host("b").write("/tmp/slow", SLOW_TO_FAIL);
    slow.expect("a script fits");
    f.sh(
        "b",
        "chmod +x /tmp/slow; mount --bind /tmp/slow /usr/sbin/runc",
    );
    let begun = Instant::now();
    let failing = f.begin("a", "counter", "b", &[]);
    eventually(Duration::from_secs(120), || {
        let failed = f.sh("b", "ls /tmp");
        failed.contains("failed").then_some(()).ok_or(failed)
    });
    // It still cleans up, and the container, which was frozen, runs on. Its cgroup does not tell: CRIU thaws and
    // freezes it while it dumps.
    f.assert_talks("a", "counter");
    let thawed_ms = begun.elapsed().as_millis();
    f.sh("b", "test ! -e /tmp/cleaned-up; touch /tmp/thawed");
    client.assert_runs();
    let failed = tests::Migration::of(failing);
    failed.assert_failed(FAILED, &["CRIU could not restore"]);
    f.sh("b", "test -e /tmp/cleaned-up; umount -l /usr/sbin/runc");
    assert!(f.containers("b").is_empty());
    f.assert_as_before(&before);

    // What is reported ends with the freeze as well.
    let freeze_ms = failed.report["freeze_ms"].as_u64().expect("a number");
    assert!(
        freeze_ms > 0 && u128::from(freeze_ms) <= thawed_ms,
        "{freeze_ms} ms, thawed after {thawed_ms} ms"
    );
    f.migrate("a", "counter", "b").assert_moved();
    pause(300);
    client.finish_whole();
}

#[test]
fn a_disk_that_is_full() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-full", &["counter"]);
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let mut client = f.client("count", &f.at("a", 9000), &[]);
    let work = "/var/lib/live-migration/work";
    for host in ["a", "b"] {
        f.sh(host, &format!("mkdir -p {work}"));
    }
    let before = f.look(&["a", "b"]);

    for host in ["a", "b"] {
        f.sh(host, &format!("mount -t tmpfs -o size=16k tmpfs {work}"));
        let migration = f.migrate("a", "counter", "b");
        assert!(
            matches!(migration.code(), FAILED | 4),
            "{}",
            migration.output
        );
        migration.assert_says(&["space"]);
        client.assert_runs();
        f.assert_talks("a", "counter");
        assert!(f.containers("b").is_empty());
        f.sh(host, &format!("umount {work}"));
    }
    f.assert_as_before(&before);

    f.migrate("a", "counter", "b").assert_moved();
    pause(300);
    client.finish_whole();
}

#[test]
fn a_name_or_a_port_taken_in_between() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-race", &["counter"]);
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let mut client = f.client("count", &f.at("a", 9000), &[]);
    let before = f.look(&["a", "b"]);

    // When the tunnel's interface appears, preflight is over.
    let links = f.sh("b", "ip -o link | wc -l");
    let take = format!(
        "for i in $(seq 6000); do
             [ $(ip -o link | wc -l) = {links} ] || break
             sleep 0.01
         done
         exec podman create -q --name counter localhost/counter"
    );
    let taking = tests::Job::start(f.host("b"), &["sh", "-c", &take]);
    let migration = f.migrate("a", "counter", "b");
    let taken = taking.wait(Duration::from_secs(120));
    if taken.status.success() {
        migration.assert_failed(FAILED, &["counter"]);
        client.assert_runs();
        f.assert_talks("a", "counter");
        assert_eq!(f.containers("b"), ["counter"]);
        assert_eq!(f.state("b", "counter"), "created");
        f.sh("b", "podman rm counter");
        f.assert_as_before(&before);
        f.migrate("a", "counter", "b").assert_moved();
    } else {
        // The migration took the name first.
        migration.assert_moved();
    }
    pause(300);
    client.finish_whole();
}

#[test]
fn flows_that_have_returned_are_forgotten_after_a_crash() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::fragile("m-returned", &["echo", "counter"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "echo", "-p 7000:7000 localhost/echo");
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let clients = [
        f.client("echo", &f.at("a", 7000), &[]),
        f.client("count", &f.at("a", 9000), &[]),
    ];
    // The counter stays there, so the tunnel does not go with the flows of the other one.
    f.migrate("a", "counter", "b").assert_moved();
    f.migrate("a", "echo", "b").assert_moved();
    let dies = [("FAILPOINTS", "client.phase.remove=1*return(kill)")];
    let killed = f.begin_with("b", "echo", "a", &[], &dies).wait(SOON);
    assert_eq!(killed.status.code(), Some(KILLED), "{killed}");
    f.sh("b", "agent-client recover");
    let left = f.sh(
        "b",
        "conntrack -L -p tcp 2>/dev/null | grep dport=7000 || true",
    );
    assert_eq!(left, "");
    for client in clients {
        client.finish_whole();
    }
    f.sh("a", "podman rm -ft0 echo");
    f.sh("b", "podman rm -ft0 counter");
    f.assert_as_before(&before);
}
