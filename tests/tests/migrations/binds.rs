//! Directories and files of the host that a container has: what `kinds` does not say of them.

use std::time::Duration;

use tests::{Fixture, Migration, eventually, pause};

/// What is below /srv on a host, with owners, modes and contents. While agent-server puts things back,
/// names come and go under `find` and `md5sum`: what they then miss makes a different answer.
fn files(f: &Fixture, host: &str) -> String {
    let list = "cd /srv; find . -printf '%p %y %U:%G %m %i\\n' | sort; \
        find . -type f | sort | xargs md5sum || true";
    f.sh(host, list)
}

#[test]
fn written_to_until_the_freeze() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::new("m-bind-log", &["counter-file"]);
    f.serve_allowing("b", &["/srv"]);
    f.sh("a", "mkdir -p /srv/data");
    f.start(
        "a",
        "counter",
        "-p 9000:9000 -v /srv/data:/data localhost/counter-file",
    );
    let client = f.client("count", &f.at("a", 9000), &[]);
    pause(500);
    let job = f.begin("a", "counter", "b", &["--bind", "/srv/data=send"]);
    let migration = Migration::of(job);
    migration.assert_moved();
    let notes = migration.report["notes"].to_string();
    assert!(
        notes.contains("/srv/data was sent, and is still here"),
        "{notes}"
    );
    pause(500);
    client.finish_whole();
    // Here it is as it was, there it goes on.
    let count = |host| f.sh(host, "cat /srv/data/*");
    assert_ne!(count("a"), count("b"));
    f.sh("b", "podman restart -t0 counter");
    assert!(!count("b").is_empty());
}

#[test]
fn a_migration_that_fails_puts_everything_back() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::fragile("m-bind-undone", &["counter"]);
    f.serve_allowing("b", &["/srv"]);
    f.sh(
        "a",
        "mkdir -p /srv/over /srv/empty /srv/new/deep; echo new >/srv/over/x; echo new >/srv/empty/x; \
         echo new >/srv/file; echo new >/srv/new/deep/x",
    );
    f.sh(
        "b",
        "mkdir -p /srv/over /srv/empty; echo old >/srv/over/y; echo old >/srv/file; chmod 751 /srv/empty",
    );
    let binds = ["over", "empty", "file", "new/deep"];
    let volumes = binds.map(|name| format!("-v /srv/{name}:/{name}"));
    f.start(
        "a",
        "counter",
        &format!("{} localhost/counter", volumes.join(" ")),
    );
    let (here, there) = (files(&f, "a"), files(&f, "b"));
    let sends = binds.map(|name| format!("/srv/{name}=send"));
    let mut more: Vec<&str> = sends.iter().flat_map(|send| ["--bind", send]).collect();
    more.push("--overwrite");

    // At the source, after everything was sent.
    let hasty = [&more[..], &["--max-freeze-ms", "1"]].concat();
    let job = f.begin("a", "counter", "b", &hasty);
    Migration::of(job).assert_failed(1, &["--max-freeze-ms"]);
    assert_eq!(files(&f, "a"), here);
    assert_eq!(files(&f, "b"), there);

    // The destination is killed then, and undoes it when it starts again.
    f.serve_with(
        "b",
        &[("FAILPOINTS", "server.restore.before=1*return(kill)")],
    );
    let job = f.begin("a", "counter", "b", &more);
    Migration::of(job).assert_failed(1, &[]);
    assert_ne!(files(&f, "b"), there);
    f.serve("b");
    // It listens before it is done.
    eventually(Duration::from_secs(60), || {
        let now = files(&f, "b");
        (now == there).then_some(()).ok_or(now)
    });
    assert_eq!(f.state("a", "counter"), "running");

    let job = f.begin("a", "counter", "b", &more);
    Migration::of(job).assert_moved();
    let moved = files(&f, "b");
    assert!(
        moved.contains("./over/x f 0:0") && !moved.contains("./over/y"),
        "{moved}"
    );
    assert!(!moved.contains("live-migration"), "{moved}");
}

#[test]
fn at_another_path_it_stays_there() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::new("m-bind-other", &["counter"]);
    f.serve_allowing("b", &["/srv"]);
    f.sh("a", "mkdir -p /srv/a; echo 1 >/srv/a/x; echo 1 >/srv/file");
    f.sh("b", "mkdir -p /srv/b; echo 1 >/srv/b/x; echo 1 >/srv/file");
    f.start(
        "a",
        "counter",
        "-v /srv/a:/x -v /srv/file:/file localhost/counter",
    );
    // Written to after it was compared.
    f.sh("a", "echo 2 >/srv/file");
    f.migrate("a", "counter", "b")
        .assert_failed(4, &["/srv/file at /file", "different"]);
    f.sh("b", "echo 2 >/srv/file");
    let job = f.begin("a", "counter", "b", &["--bind", "/srv/a=/srv/b"]);
    Migration::of(job).assert_moved();
    f.sh("b", "podman restart -t0 counter");
    let mounts = f.sh("b", "podman inspect -f '{{json .Mounts}}' counter");
    assert!(
        mounts.contains(r#""/srv/b""#) && !mounts.contains(r#""/srv/a""#),
        "{mounts}"
    );
}
