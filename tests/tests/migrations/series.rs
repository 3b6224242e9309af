//! More than one migration between the same hosts.

use tests::{Fixture, pause};

#[test]
fn a_second_one_on_the_same_tunnel() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-second", &["counter"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "one", "-p 9000:9000 localhost/counter");
    f.start("a", "two", "-p 9001:9000 localhost/counter");
    let one = f.client("count", &f.at("a", 9000), &[]);
    let two = f.client("count", &f.at("a", 9001), &[]);
    pause(200);
    let outage = |container: &str| {
        let said = f.sh("a", &format!("agent-client check {container} --to b"));
        let mut lines = said.lines().filter(|line| line.contains(" outage "));
        lines.next().expect("an estimate").to_owned()
    };

    assert!(outage("one").contains("a guess"), "{}", outage("one"));
    let first = f.migrate("a", "one", "b");
    first.assert_moved();
    assert_eq!(first.report["tunnel"]["reused"], false);
    // It takes about as long as the first one.
    let about = outage("two");
    assert!(about.contains("by the last migration there"), "{about}");
    let second = f.migrate("a", "two", "b");
    second.assert_moved();
    assert_eq!(second.report["tunnel"]["reused"], true);
    let (took, estimated) = (
        &first.report["freeze_ms"],
        &second.report["estimated_freeze_ms"],
    );
    assert!(
        took.as_i64().unwrap().abs_diff(estimated.as_i64().unwrap()) < 20,
        "{took} {estimated}"
    );
    assert_eq!(
        first.report["tunnel"]["interface"],
        second.report["tunnel"]["interface"]
    );
    pause(500);
    // One flow ends while the other still needs the tunnel.
    one.finish_whole();
    pause(2000);
    two.finish_whole();

    f.sh("b", "podman rm -ft0 one two");
    f.assert_as_before(&before);
}

#[test]
fn there_and_back() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::both_ways("m-back", &["echo"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "echo", "-p 7000:7000 -p 7000:7000/udp localhost/echo");
    let defined = f.definition("a", "echo");
    let first = f.client("echo", &f.at("a", 7000), &["--connections", "5"]);
    let datagrams = f.client("echo", &f.at("a", 7000), &["--udp"]);
    pause(300);

    f.migrate("a", "echo", "b").assert_moved();
    // Begins while the container is at the other end: this one goes through the tunnel after the
    // way back.
    let second = f.client("echo", &f.at("b", 7000), &["--connections", "5"]);
    pause(500);
    f.migrate("b", "echo", "a").assert_moved();
    pause(500);
    let third = f.client("echo", &f.at("a", 7000), &[]);
    pause(500);

    let servers = first.finish_whole()["servers"].clone();
    assert_eq!(datagrams.finish_whole()["servers"], servers);
    assert_eq!(second.finish_whole()["servers"], servers);
    assert_eq!(third.finish_whole()["servers"], servers);
    assert!(f.containers("b").is_empty());
    assert_eq!(f.definition("a", "echo"), defined);

    f.sh("a", "podman rm -ft0 echo");
    f.assert_as_before(&before);
}

#[test]
fn three_times_to_and_fro_with_one_client() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::both_ways("m-fro", &["counter"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let client = f.client("count", &f.at("a", 9000), &[]);
    for (from, to) in [("a", "b"), ("b", "a"), ("a", "b")] {
        pause(200);
        f.migrate(from, "counter", to).assert_moved();
    }
    pause(500);
    client.finish_whole();
    f.sh("b", "podman rm -ft0 counter");
    f.assert_as_before(&before);
}
