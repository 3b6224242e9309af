//! What is past can be looked up on both hosts.

use serde_json::Value;
use tests::Fixture;

#[test]
fn a_migration_can_be_looked_up_afterwards() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-history", &["counter"]);
    assert_eq!(
        f.sh("a", "agent-client history"),
        "nothing has moved from or to this host"
    );
    f.start("a", "counter", "localhost/counter");
    let migration = f.migrate("a", "counter", "b");
    let report = &migration.assert_moved().report;
    let id = report["migration_id"].as_str().expect("an id");
    let frozen = format!(
        "  {id}  counter to b:50051  moved  frozen {} ms",
        report["freeze_ms"]
    );

    let all = f.sh("a", "agent-client history");
    assert!(all.lines().count() == 1 && all.ends_with(&frozen), "{all}");
    let json = |command: &str| -> Value {
        serde_json::from_str(&f.sh("a", command)).expect("it prints JSON")
    };
    let all = json("agent-client history --format json");
    assert_eq!(all[0]["migration"], id);
    let one = json(&format!("agent-client history {id} --format json"));
    assert_eq!(all[0], one);
    assert_eq!(&one["report"], report, "what `migrate` has printed");

    let told = f.sh(
        "a",
        &format!("agent-client history {} --svg /tmp/it.svg", &id[..6]),
    );
    for word in [id, "  prepare destination  ", "outage: ", "  dump memory  "] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let drawn = f.sh("a", "cat /tmp/it.svg");
    for part in ["<svg", "<title>restore: ", "<title>outage: ", "</svg>"] {
        assert!(drawn.contains(part), "{part}: {drawn}");
    }

    let there = f.sh("b", &format!("agent-client history {id}"));
    for word in [id, "counter from a  moved", "where it came from"] {
        assert!(there.contains(word), "{word}: {there}");
    }
    let unknown = f.run("b", &["agent-client", "history", "ffff"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown}");
    assert!(unknown.stderr.contains("no migration `ffff`"), "{unknown}");
}
