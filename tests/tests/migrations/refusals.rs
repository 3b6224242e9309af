//! Problems that exist from the start are refused, and nothing is touched.

use tests::{Fixture, Setup, pause};

/// Refused by preflight.
const REFUSED: i32 = 4;

#[test]
fn what_is_wrong_at_the_source() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-no-source", &["counter"]);
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    f.start("a", "paused", "-p 9001:9000 localhost/counter");
    f.start("a", "stopped", "-p 9002:9000 localhost/counter");
    f.start("a", "mapped", "--uidmap 0:100000:5000 localhost/counter");
    f.sh("a", "podman pause paused; podman stop -t0 stopped");
    let shared = two_ids_that_begin_alike(&f);
    let mut client = f.client("count", &f.at("a", 9000), &[]);
    let before = f.look(&["a", "b"]);

    let wrong: [(&str, &[&str]); 2] = [
        ("nobody", &["no container", "nobody"]),
        (&shared, &[&shared, "could be any of"]),
    ];
    for (name, words) in wrong {
        let migration = f.migrate("a", name, "b");
        assert_eq!(migration.code(), 2, "{}", migration.output);
        migration.assert_says(words);
    }
    f.migrate("a", "paused", "b")
        .assert_failed(REFUSED, &["paused", "unpause"]);
    f.migrate("a", "stopped", "b")
        .assert_failed(REFUSED, &["exited", "running"]);
    f.migrate("a", "mapped", "b")
        .assert_failed(REFUSED, &["users", "--uidmap"]);
    // `check` alone says the same.
    let check = f.run("a", &["agent-client", "check", "paused", "--to", "b"]);
    assert_eq!(check.status.code(), Some(REFUSED), "{check}");
    assert!(check.stdout.contains("paused"), "{check}");

    f.sh("a", "mount --bind /dev/null /usr/sbin/criu");
    f.migrate("a", "counter", "b")
        .assert_failed(REFUSED, &["criu here", "install criu"]);
    f.sh("a", "umount /usr/sbin/criu");

    client.assert_runs();
    f.assert_talks("a", "counter");
    f.assert_as_before(&before);

    // And nothing of all this is left in the way.
    f.migrate("a", "counter", "b").assert_moved();
    pause(300);
    client.finish_whole();
}

/// Creates containers until two ids begin with the same digit, and returns that digit.
fn two_ids_that_begin_alike(f: &Fixture) -> String {
    let make = "ids=; while :; do
            id=$(podman create -q localhost/counter)
            first=$(echo $id | cut -c1)
            case $ids in *$first*) echo $first; exit;; esac
            ids=$ids$first
        done";
    f.sh("a", make)
}

#[test]
fn what_is_wrong_at_the_destination() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-no-dest", &["counter"]);
    f.start(
        "a",
        "counter",
        "-p 9000:9000 -v notes:/notes localhost/counter",
    );
    let defined = f.definition("a", "counter");
    let address = defined["addresses"][0][1].as_str().expect("an address");
    let mut client = f.client("count", &f.at("a", 9000), &[]);
    let before = f.look(&["a", "b"]);

    let obstacles: &[(&str, &str, &[&str])] = &[
        (
            // Not by Podman, so that only the socket reveals it.
            "nc -lk 9000 </dev/null >/dev/null 2>&1 & echo $! >/tmp/pid",
            "kill $(cat /tmp/pid)",
            &["9000", "destination"],
        ),
        (
            "podman run -qd --name other --ip 10.88.0.200 -p 9000:9000 localhost/counter",
            "podman rm -ft0 other",
            &["9000", "destination"],
        ),
        (
            &format!("podman run -qd --name other --ip {address} localhost/counter"),
            "podman rm -ft0 other",
            &[address, "other"],
        ),
        (
            "podman create -q --name counter localhost/counter",
            "podman rm counter",
            &["name", "counter"],
        ),
        (
            "podman volume create notes",
            "podman volume rm notes",
            &["volume", "notes"],
        ),
        (
            "mount --bind /dev/null /usr/sbin/criu",
            "umount /usr/sbin/criu",
            &["criu", "destination"],
        ),
    ];
    for (make, unmake, words) in obstacles {
        f.sh("b", make);
        f.migrate("a", "counter", "b").assert_failed(REFUSED, words);
        client.assert_runs();
        f.sh("b", unmake);
    }
    f.assert_talks("a", "counter");
    f.assert_as_before(&before);

    f.migrate("a", "counter", "b").assert_moved();
    pause(300);
    client.finish_whole();
}

#[test]
fn a_network_that_is_not_there() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-no-network", &["counter"]);
    f.sh("a", "podman network create --subnet 10.99.0.0/24 back");
    f.start(
        "a",
        "counter",
        "--network back -p 9000:9000 localhost/counter",
    );
    let client = f.client("count", &f.at("a", 9000), &[]);
    f.migrate("a", "counter", "b")
        .assert_failed(REFUSED, &["podman network create", "10.99.0.0/24", "back"]);
    f.sh("b", "podman network create --subnet 10.99.0.0/24 back");
    f.migrate("a", "counter", "b").assert_moved();
    pause(300);
    client.finish_whole();
}

#[test]
fn what_is_wrong_on_the_command_line() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::with(
        "m-usage",
        Setup {
            hosts: &["a", "b", "c"],
            servers: &["b"],
            pairs: &[("a", "b")],
            images: &[("a", &["counter"]), ("b", &["counter"])],
            services: false,
        },
    );
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let client = f.client("count", &f.at("a", 9000), &[]);
    let before = f.look(&["a", "b"]);

    // Nobody is there to be asked.
    let ask = ["agent-client", "migrate", "counter", "--to", "b"];
    let output = f.run("a", &ask);
    assert_eq!(output.status.code(), Some(2), "{output}");
    assert!(output.stderr.contains("--yes"), "{output}");
    let output = f.run("a", &["agent-client"]);
    assert_eq!(output.status.code(), Some(2), "{output}");
    assert!(output.stderr.contains("--to"), "{output}");
    assert!(output.stderr.contains("--yes"), "{output}");
    let output = f.run("a", &["agent-client", "migrate", "--no-such-flag"]);
    assert_eq!(output.status.code(), Some(2), "{output}");

    let mut somebody = vec![
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    somebody.extend(ask);
    somebody.extend(["--yes"]);
    let output = f.run("a", &somebody);
    assert!(matches!(output.status.code(), Some(1 | 2 | 4)), "{output}");
    assert!(output.stderr.contains("root"), "{output}");

    let dry = f.run(
        "a",
        &[&ask[..], &["--dry-run", "--format", "json"]].concat(),
    );
    assert!(dry.status.success(), "{dry}");
    assert!(dry.stdout.contains("\"possible\""), "{dry}");
    let check = f.run("a", &["agent-client", "check", "counter", "--to", "b"]);
    assert!(check.status.success(), "{check}");

    f.assert_talks("a", "counter");
    f.assert_as_before(&before);
    client.finish_whole();
}

#[test]
fn how_a_container_was_created() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-created", &["counter"]);
    f.start(
        "a",
        "elsewhere",
        "--log-driver k8s-file --log-opt path=/tmp/its.log localhost/counter",
    );
    f.migrate("a", "elsewhere", "b")
        .assert_failed(REFUSED, &["log here", "/tmp/its.log"]);

    // A runtime given by its path, and an exec session that has ended.
    f.sh(
        "a",
        "podman --runtime /usr/bin/runc run -qd --name counter -p 9000:9000 localhost/counter",
    );
    let client = f.client("count", &f.at("a", 9000), &[]);
    f.sh("a", "podman exec -d counter /nonexistent || true");
    f.sh("b", "mv /usr/bin/runc /usr/local/bin/");
    f.migrate("a", "counter", "b")
        .assert_failed(REFUSED, &["runtime's path", "/usr/bin/runc"]);
    f.sh("b", "mv /usr/local/bin/runc /usr/bin/");
    f.migrate("a", "counter", "b").assert_moved();
    pause(300);
    client.finish_whole();
}
