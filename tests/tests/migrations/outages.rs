//! Nobody answers, or somebody else does.

use std::time::{Duration, Instant};

use tests::{Fixture, pause};

#[test]
fn nobody_or_somebody_else_answers() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::new("m-outage", &["counter"]);
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let mut client = f.client("count", &f.at("a", 9000), &[]);
    let before = f.look(&["a", "b"]);
    let fails = |f: &Fixture, words: &[&str]| {
        let begun = Instant::now();
        let migration = f.migrate("a", "counter", "b");
        assert!(matches!(migration.code(), 1 | 4), "{}", migration.output);
        migration.assert_says(words);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(30), "it took {took:?}");
    };

    f.lab().cut("b").expect("b can be cut off");
    fails(&f, &["b"]);
    f.lab().mend("b").expect("b can be mended");
    client.assert_runs();

    f.stop_serving("b");
    fails(&f, &["refused", "50051"]);
    for other in [
        "printf 'SSH-2.0-OpenSSH_9.9\\r\\n'; sleep 60",
        "head -c 100000 /dev/urandom; sleep 60",
        "",
        // Accepts the connection and never says a word.
        "sleep 60",
    ] {
        // The listener ends with the program that is waited for last.
        f.sh(
            "b",
            &format!(
                "({{ {other}; }} | nc -lN 50051 & echo $! >/tmp/nc) >/dev/null 2>&1
                 until ss -Hltn sport = :50051 | grep -q .; do sleep 0.02; done"
            )
            .replace("{ ; }", "true"),
        );
        fails(&f, &["b"]);
        f.sh("b", "kill $(cat /tmp/nc) 2>/dev/null || true; sleep 0.1");
        client.assert_runs();
    }

    f.serve("b");
    f.assert_talks("a", "counter");
    f.assert_as_before(&before);
    f.migrate("a", "counter", "b").assert_moved();
    pause(300);
    client.finish_whole();
}
