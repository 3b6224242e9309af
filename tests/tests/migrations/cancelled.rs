//! Ctrl-C at any moment.

use std::time::Instant;

use tests::{Fixture, Migration, pause};

#[test]
fn at_any_moment_it_runs_on_one_host() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::both_ways("m-cancel", &["counter"]);
    let start = f.look(&["a", "b"]);
    f.start(
        "a",
        "counter",
        "-p 9000:9000 -v notes:/notes localhost/counter",
    );
    let mut client = f.client("count", &f.at("a", 9000), &[]);
    pause(200);

    // How long a migration there and back takes decides when to cancel.
    let begun = Instant::now();
    f.migrate("a", "counter", "b").assert_moved();
    let whole = begun.elapsed();
    f.migrate("b", "counter", "a").assert_moved();

    let (mut cancelled, mut moved) = (0, 0);
    for tenths in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let migration = f.begin("a", "counter", "b", &[]);
        std::thread::sleep(whole * tenths / 10);
        let migration = Migration::interrupted(migration);
        client.assert_runs();
        match migration.code() {
            0 => {
                moved += 1;
                migration.assert_moved();
                assert!(f.containers("a").is_empty());
                f.assert_talks("b", "counter");
                f.migrate("b", "counter", "a").assert_moved();
            }
            1 => {
                cancelled += 1;
                migration.assert_failed(1, &["cancelled"]);
                assert!(f.containers("b").is_empty(), "{:?}", f.containers("b"));
                assert_eq!(f.sh("b", "podman volume ls -q"), "");
                f.assert_talks("a", "counter");
            }
            // Before it could catch the signal, however long it takes to start: nothing had been done yet.
            130 if migration.output.stderr.is_empty() => {
                assert!(f.containers("b").is_empty(), "{:?}", f.containers("b"));
                assert_eq!(f.sh("b", "podman volume ls -q"), "");
                assert_eq!(f.sh("a", "agent-client recover"), "nothing was left open");
                f.assert_talks("a", "counter");
            }
            _ => panic!("after {tenths} tenths of {whole:?}: {}", migration.output),
        }
        assert_eq!(f.state("a", "counter"), "running");
    }
    println!("of ten, {cancelled} were cancelled and {moved} moved");
    assert!(cancelled > 0);

    f.migrate("a", "counter", "b").assert_moved();
    pause(300);
    client.finish_whole();
    f.sh("b", "podman rm -ft0 counter && podman volume rm notes");
    f.assert_as_before(&start);
}
