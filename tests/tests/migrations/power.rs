//! What a host does whose power was cut. What is on its disk then is another matter: tests/tests/power.

use std::time::Duration;

use lab::{Kind, Lab};
use tests::{Fixture, eventually};

/// Something stays open.
const OPEN: i32 = 3;

#[test]
fn a_stopped_copy_is_not_given_up_before_all_is_on_disk_at_the_other_end() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::fragile("m-power", &["counter"]);
    f.start("a", "counter", "localhost/counter");
    let faults = "server.commit.after=1*return(hold);server.fate.says=return(committed)";
    f.serve_with("b", &[("FAILPOINTS", faults)]);
    let migration = f.begin("a", "counter", "b", &[]);
    let held = "/run/live-migration/held/server.commit.after";
    eventually(Duration::from_secs(60), || {
        let there = f.run("b", &["test", "-e", held]);
        there
            .status
            .success()
            .then_some(())
            .ok_or("not held".to_owned())
    });

    f.lab().power_off("a").expect("it can be killed");
    drop(migration);
    let lab = Lab::up_as(f.lab().name(), &[("a", Kind::Namespaces)]);
    lab.expect("it boots again").keep();
    f.sh("b", &format!("rm {held}"));
    let recover = |f: &Fixture| f.run("a", &["agent-client", "recover"]);
    for _ in 0..2 {
        let said = recover(&f);
        assert_eq!(said.status.code(), Some(OPEN), "{said}");
        assert!(said.to_string().contains("resolve"), "{said}");
    }
    assert_eq!(f.state("a", "counter"), "exited");

    f.serve("b");
    let said = recover(&f);
    assert_eq!(said.status.code(), Some(0), "{said}");
    assert!(said.to_string().contains("finished"), "{said}");
    assert!(said.to_string().contains("is stopped here"), "{said}");
    assert_eq!(f.state("a", "counter"), "exited");
    assert_eq!(f.state("b", "counter"), "running");
}

#[test]
fn a_record_that_cannot_be_read_leaves_something_open() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-emptied", &["counter"]);
    let directory = "/var/lib/live-migration/client/migrations";
    let record = format!("{directory}/0123456789abcdef.json");
    f.sh("a", &format!("mkdir -p {directory}; : >{record}"));
    let said = f.run("a", &["agent-client", "recover"]);
    assert_eq!(said.status.code(), Some(OPEN), "{said}");
    assert!(said.stderr.contains(&record), "{said}");
    assert!(
        !said.to_string().contains("nothing was left open"),
        "{said}"
    );

    f.sh("a", &format!("rm {record}"));
    let said = f.run("a", &["agent-client", "recover"]);
    assert_eq!(said.status.code(), Some(0), "{said}");
}
