//! The operator's programs before and after a migration.

use serde_json::Value;
use tests::Fixture;

const DIRECTORY: &str = "/etc/live-migration/hooks";

#[test]
fn hooks_may_refuse_and_hear_of_the_end() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-hooks", &["counter"]);
    f.start("a", "counter", "localhost/counter");
    let put = |hook: &str, text: &str| {
        let path = format!("{DIRECTORY}/{hook}");
        f.sh("a", &format!("mkdir -p $(dirname {path})"));
        let text = format!("#!/bin/sh\n{text}\n");
        f.host("a")
            .write(&path, text.as_bytes())
            .expect("it can be written");
        f.sh("a", &format!("chmod 755 {path}"));
    };
    put("before.d/10-plan", "cat >/root/plan");
    put("before.d/20-no", "printf 'not now\\033[2J'; exit 7");
    put("before.d/30-never", "touch /root/never");
    put(
        "after.d/10-report",
        "cat >/root/report; env >/root/environment",
    );
    put("after.d/20-broken", "echo out of order >&2; exit 1");
    put("after.d/30-last", "touch /root/last");

    // Nothing is begun, and those that come after are told.
    let refused = f.migrate("a", "counter", "b");
    let name = "hook /etc/live-migration/hooks/before.d/20-no";
    let said = "ended with exit status: 7: not now\\u{1b}[2j";
    refused.assert_failed(4, &[name, &said.replace('\\', "\\\\")]);
    assert!(refused.report["migration_id"].is_null());
    assert_eq!(f.containers("b"), Vec::<String>::new());
    f.sh("a", "test ! -e /root/never");
    let read = |file: &str| f.sh("a", &format!("cat /root/{file}"));
    let environment = read("environment");
    let has = |variable: &str| environment.lines().any(|line| line == variable);
    assert!(
        has("LIVE_MIGRATION_OUTCOME=refused") && has("LIVE_MIGRATION_ID="),
        "{environment}"
    );
    let plan: Value = serde_json::from_str(&read("plan")).expect("JSON");
    assert_eq!(plan["container"], refused.report["container"]);
    assert_eq!(plan["destination"], "b:50051");
    assert!(plan["checks"].as_array().is_some_and(|all| !all.is_empty()));

    f.sh("a", &format!("rm {DIRECTORY}/before.d/20-no /root/last"));
    let moved = f.migrate("a", "counter", "b");
    moved.assert_moved();
    f.sh("a", "test -e /root/never -a -e /root/last");
    let warning = "the hook /etc/live-migration/hooks/after.d/20-broken ended with exit status: 1: out of order";
    assert_eq!(moved.warnings(), [warning]);
    let environment = read("environment");
    let id = moved.report["migration_id"].as_str().expect("an id");
    for variable in [
        "LIVE_MIGRATION_WHEN=after",
        "LIVE_MIGRATION_OUTCOME=moved",
        "LIVE_MIGRATION_CONTAINER=counter",
        "LIVE_MIGRATION_DESTINATION=b:50051",
        &format!("LIVE_MIGRATION_ID={id}"),
    ] {
        let has = environment.lines().any(|line| line == variable);
        assert!(has, "{variable}: {environment}");
    }
    let told: Value = serde_json::from_str(&read("report")).expect("JSON");
    assert_eq!(told["phases"], moved.report["phases"]);
}
