//! What a container has much of is sent while it runs, and once.

use std::time::Duration;

use serde_json::Value;
use tests::{Fixture, eventually, pause};

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
    // What came before an answer to the client is in the log when that is.
    eventually(Duration::from_secs(120), || {
        let last = f.sh("a", "podman logs --tail 1 counter 2>&1");
        let answered = last.starts_with("count=");
        answered.then_some(()).ok_or(last)
    });
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

/// Podman at the destination waits 4 minutes from its preparation on: a volume may take longer.
#[test]
fn a_volume_goes_before_the_destination_is_prepared() {
    if !lab::can_run() {
        return;
    }
    const MIB: u64 = 1 << 20;
    let f = Fixture::new("m-volume", &["counter-file"]);
    let before = f.look(&["a", "b"]);
    f.start(
        "a",
        "file",
        "-p 9000:9000 -v big:/data localhost/counter-file",
    );
    let directory = "$(podman volume inspect -f '{{.Mountpoint}}' big)";
    f.sh(
        "a",
        &format!("head -c 60M /dev/urandom >{directory}/large; chmod 711 {directory}; chown 12:34 {directory}"),
    );
    // Podman gives a new volume the owner and mode of the image's directory.
    let sum = format!("sha256sum <{directory}/large; stat -c '%a %u %g' {directory}");
    let held = f.sh("a", &sum);
    let client = f.client("count", &f.at("a", 9000), &[]);
    pause(300);

    let migration = f.migrate("a", "file", "b");
    migration.assert_moved();
    assert_eq!(f.sh("b", &sum), held);
    client.finish_whole();
    let phases = migration.report["phases"].as_array().expect("a list");
    let names = phases.iter().map(|phase| phase["name"].as_str());
    let names: Vec<&str> = names.map(|name| name.expect("a name")).collect();
    let place = |name| names.iter().position(|n| *n == name).expect("it happened");
    assert!(place("volumes") < place("stage"), "{names:?}");
    let ahead = bytes_of(&migration.report, &["volumes"]);
    assert!(ahead >= 60 * MIB, "{ahead} bytes");
    let later = bytes_of(&migration.report, &["files", "ship"]);
    assert!(later < 5 * MIB, "{later} bytes again");
    f.sh("b", "podman rm -fvt0 file && podman volume rm big");
    f.assert_as_before(&before);
}
