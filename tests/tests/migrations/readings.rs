//! Commands that look like reading only read.

use std::time::Duration;

use tests::{Fixture, Job};

/// Whether the container's cgroup is frozen.
fn frozen(f: &Fixture) -> bool {
    let freeze = "find /sys/fs/cgroup -path \"*$(podman inspect -f '{{.Id}}' echo)*/cgroup.freeze\" | sort | head -n1";
    f.sh("a", &format!("cat $({freeze})")) == "1"
}

#[test]
fn an_interrupted_migration_is_named_and_left_alone() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::fragile("m-reading", &["echo"]);
    f.start("a", "echo", "-p 7000:7000 localhost/echo");
    let dies = [("FAILPOINTS", "client.phase.ship=1*return(kill)")];
    f.begin_with("a", "echo", "b", &[], &dies)
        .wait(Duration::from_secs(60));
    assert!(frozen(&f));
    let reading: [&[&str]; 4] = [
        &["status"],
        &["check", "echo", "--to", "b"],
        &["forward", "list"],
        &["migrate", "echo", "--to", "b", "--dry-run"],
    ];
    for words in reading {
        let argv = [&["agent-client"], words].concat();
        let said = Job::start(f.host("a"), &argv).wait(Duration::from_secs(60));
        let all = format!("{}{}", said.stdout, said.stderr);
        for word in [
            "echo to b",
            "is left open",
            "`agent-client recover` undoes it",
        ] {
            assert!(all.contains(word), "{argv:?}: {said}");
        }
        assert!(frozen(&f), "{argv:?}");
    }
    let json = f.sh("a", "agent-client status --format json");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["left_open"][0]["container"], "echo", "{json}");

    f.sh("a", "agent-client recover");
    assert!(!frozen(&f));
    let status = f.sh("a", "agent-client status");
    assert!(!status.contains("left open"), "{status}");
    f.migrate("a", "echo", "b").assert_moved();
}
