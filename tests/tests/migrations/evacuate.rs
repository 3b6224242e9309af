//! All containers of a host move, and come back.

use std::time::Duration;

use serde_json::Value;
use tests::{Fixture, Job, Load};

/// How long a host's containers may take together.
const LIMIT: Duration = Duration::from_secs(900);

/// What is started from the examples: name, options, and how a client talks to it.
const CONTAINERS: [(&str, &str, &str); 7] = [
    ("echo-1", "-p 7001:7000 localhost/echo", "echo 7001"),
    (
        "echo-2",
        "-p 7002:7000/udp localhost/echo",
        "echo 7002 --udp",
    ),
    ("counter", "-p 9001:9000 localhost/counter", "count 9001"),
    (
        "counter-file",
        "-p 9002:9000 localhost/counter-file",
        "count 9002",
    ),
    (
        "open-file",
        "-p 9003:9000 localhost/counter-open-file",
        "count 9003",
    ),
    ("processes", "-p 7003:7000 localhost/processes", "echo 7003"),
    (
        "aside",
        "--network side -p 7004:7000 localhost/echo",
        "echo 7004",
    ),
];

#[test]
fn a_host_is_emptied_and_filled_again() {
    if !lab::can_run() {
        return;
    }
    let images = [
        "echo",
        "counter",
        "counter-file",
        "counter-open-file",
        "processes",
        "timers",
        "dial-out",
    ];
    let f = Fixture::both_ways("m-evacuate", &images);
    f.add_network(&["a", "b"], "side", "--subnet 10.99.0.0/24");
    let before = f.look(&["a", "b"]);
    for (name, options, _) in CONTAINERS {
        f.start("a", name, options);
    }
    f.start("a", "timers", "localhost/timers");
    // Cannot move, whatever happens.
    f.start("a", "fixed", "--network host localhost/echo");
    // At home there.
    f.start("b", "resident", "--ip 10.88.9.9 localhost/timers");
    let outside = f.outside_server(7100);
    let to = f.host("c").ipv4();
    f.start(
        "a",
        "dials-out",
        &format!("localhost/dial-out --keep tcp {to}:7100"),
    );
    let address = f.sh(
        "a",
        "podman inspect -f '{{.NetworkSettings.Networks.podman.IPAddress}}' echo-1",
    );
    f.start(
        "a",
        "talks",
        &format!("localhost/dial-out --keep tcp,udp {address}:7000"),
    );
    for container in ["dials-out", "talks"] {
        f.assert_talks("a", container);
    }
    let clients: Vec<Load> = CONTAINERS
        .iter()
        .map(|(_, _, client)| {
            let words: Vec<&str> = client.split(' ').collect();
            let port = words[1].parse().expect("a port");
            f.client(words[0], &f.at("a", port), &words[2..])
        })
        .collect();
    let mut all: Vec<&str> = CONTAINERS.iter().map(|(name, ..)| *name).collect();
    all.extend(["timers", "dials-out", "talks"]);
    all.sort_unstable();
    let evacuate = |host: &str, options: &str| {
        let command = format!("agent-client evacuate {options}");
        let words: Vec<&str> = command.split(' ').collect();
        Job::start(f.host(host), &words).wait(LIMIT)
    };
    let running = |host: &str| {
        let mut names = f.containers(host);
        names.sort_unstable();
        names
    };
    let here = running("a");

    // Nothing at all, since one cannot.
    let output = evacuate("a", "--to b --yes");
    assert_eq!(output.status.code(), Some(4), "{output}");
    for line in [
        "fixed                    stays",
        "counter                  b:50051                  about ",
    ] {
        let said = output.stderr.lines();
        assert_eq!(said.filter(|l| l.starts_with(line)).count(), 1, "{output}");
    }
    assert_eq!(running("a"), here);

    let output = evacuate("a", "--to b --yes --keep-going");
    assert_eq!(output.status.code(), Some(4), "{output}");
    let last = output.stdout.lines().last().expect("a sentence");
    assert_eq!(last, "10 of 11 moved; cannot move: fixed", "{output}");
    assert_eq!(running("a"), ["fixed"]);

    // Two at a time: all but one are in one network.
    let output = evacuate("b", "--return --to a --yes --parallel 2 --format json");
    assert!(output.status.success(), "{output}");
    let summary: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let lines = summary["containers"].as_array().expect("a list");
    let moved = lines.iter().map(|line| {
        assert_eq!(line["outcome"], "moved", "{line}");
        assert_eq!(line["destination"], "a:50051");
        assert_eq!(line["report"]["outcome"], "moved");
        line["container"]["name"].as_str().expect("a name")
    });
    assert_eq!(moved.collect::<Vec<_>>(), all);
    assert_eq!(running("b"), ["resident"]);
    assert_eq!(running("a"), here);

    for client in clients {
        client.finish_whole();
    }
    for container in ["dials-out", "talks"] {
        f.assert_talks("a", container);
        assert_eq!(f.stop_dial_out("a", container), 0, "{container}");
    }
    outside.finish();
    let said = f.sh("a", "podman logs timers 2>&1");
    assert!(!said.contains("BROKEN"), "{said}");
    f.sh("a", "podman rm -aft0");
    f.sh("b", "podman rm -aft0");
    f.assert_as_before(&before);
}

#[test]
fn the_first_that_fails_is_the_last() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-several", &["echo", "counter"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "echo", "-p 7000:7000 localhost/echo");
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let clients = [
        f.client("echo", &f.at("a", 7000), &[]),
        f.client("count", &f.at("a", 9000), &[]),
    ];
    let migrate = |options: &str| {
        let command = format!("agent-client migrate echo counter --to b {options}");
        let words: Vec<&str> = command.split(' ').collect();
        Job::start(f.host("a"), &words).wait(LIMIT)
    };

    let output = migrate("--yes --bind /srv=keep");
    assert_eq!(output.status.code(), Some(2), "{output}");
    let output = migrate("--dry-run");
    assert!(output.status.success(), "{output}");
    assert_eq!(output.stdout.lines().count(), 3, "{output}");
    let output = migrate("--yes --max-freeze-ms 1");
    assert_eq!(output.status.code(), Some(1), "{output}");
    assert_eq!(
        output.stdout.trim(),
        "0 of 2 moved; failed, running here: counter; not begun: echo"
    );
    // The same again, without what was wrong.
    let output = migrate("--yes");
    assert!(output.status.success(), "{output}");
    assert!(output.stdout.ends_with("2 of 2 moved\n"), "{output}");
    for client in clients {
        client.finish_whole();
    }
    f.sh("b", "podman rm -ft0 echo counter");
    f.assert_as_before(&before);
}
