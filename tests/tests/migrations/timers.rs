//! Timers that expire while the container is frozen go on.

use std::collections::BTreeMap;
use std::time::Duration;

use tests::{Fixture, eventually};

#[test]
fn timers_of_each_kind_go_on() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::both_ways("m-timers", &["timers"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "timers", "localhost/timers");
    f.assert_talks("a", "timers");
    for (from, to) in [("a", "b"), ("b", "a")] {
        f.migrate(from, "timers", to).assert_moved();
        let moved = expired(&f, to);
        // The first line may be about a window that began before the freeze.
        for _ in 0..3 {
            f.assert_talks(to, "timers");
        }
        let said = f.sh(to, "podman logs timers 2>&1");
        assert!(!said.contains("BROKEN"), "{said}");
        for (name, count) in expired(&f, to) {
            let went_on = count > moved[&name];
            assert_eq!(went_on, name != "off", "{name}: {count}\n{said}");
        }
    }
    f.sh("a", "podman rm -ft0 timers");
    f.assert_as_before(&before);
}

/// How often each timer has expired.
fn expired(f: &Fixture, host: &str) -> BTreeMap<String, u64> {
    let line = eventually(Duration::from_secs(10), || {
        let said = f.sh(host, "podman logs --tail 5 timers 2>&1");
        let line = said.lines().rev().find(|line| line.starts_with("expired:"));
        line.map(str::to_owned).ok_or(said)
    });
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let pairs = words.chunks_exact(2);
    pairs
        .map(|pair| (pair[0].to_owned(), pair[1].parse().expect("a number")))
        .collect()
}
