//! What a container has much of is sent while it runs, and once.

use serde_json::Value;
use tests::{Fixture, pause};

/// Bytes that were sent in these phases.
fn bytes_of(report: &Value, phases: &[&str]) -> u64 {
    let all = report["phases"].as_array().expect("a list");
    let these = all
        .iter()
        .filter(|phase| phases.iter().any(|name| phase["name"] == *name));
    these
        .map(|phase| phase["bytes"].as_u64().unwrap_or(0))
        .sum()
}

#[test]
fn shared_memory_and_the_log_go_ahead() {
    if !lab::can_run() {
        return;
    }
    const MIB: u64 = 1 << 20;
    let f = Fixture::new("m-growth", &["counter"]);
    let before = f.look(&["a", "b"]);
    f.start(
        "a",
        "counter",
        "-p 9000:9000 --shm-size 200m localhost/counter",
    );
    // As its program would.
    let of_program = "/proc/$(podman inspect -f '{{.State.Pid}}' counter)";
    let program_writes = format!(
        "head -c 100M /dev/urandom >{of_program}/root/dev/shm/large
         base64 -w 200 /dev/urandom | head -c 50M >{of_program}/fd/1"
    );
    f.sh("a", &program_writes);
    let client = f.client("count", &f.at("a", 9000), &[]);
    pause(300);
    let shm = format!("sha256sum <{of_program}/root/dev/shm/large");
    let log = "podman logs counter 2>&1 | head -c 50M | sha256sum";
    let held = [f.sh("a", &shm), f.sh("a", log)];

    let migration = f.migrate("a", "counter", "b");
    migration.assert_moved();
    assert_eq!([f.sh("b", &shm), f.sh("b", log)], held);
    client.finish_whole();

    let sent = migration.report["sent_bytes"].as_u64().expect("a number");
    assert!((150 * MIB..180 * MIB).contains(&sent), "{sent} bytes");
    let outage = ["freeze", "dump", "ship", "restore", "cut_over"];
    let outage = bytes_of(&migration.report, &outage);
    assert!(outage < 5 * MIB, "{outage} bytes while it stood still");
    f.sh("b", "podman rm -ft0 counter");
    f.assert_as_before(&before);
}
