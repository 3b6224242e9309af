//! How often a check calls Podman, which takes seconds on some hosts.

use tests::Fixture;

/// Other containers on each host; none of them may cost a process.
const OTHERS: usize = 12;

#[test]
fn a_check_asks_podman_a_few_times_whatever_there_is() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-questions", &["counter"]);
    for host in ["a", "b"] {
        f.sh(
            host,
            &format!(
                "podman network create --subnet 10.99.0.0/24 back
                 for i in $(seq {OTHERS}); do podman run -qd --network none localhost/counter; done"
            ),
        );
    }
    f.start(
        "a",
        "counter",
        "--network podman,back -p 9000:9000 -v one:/one -v two:/two localhost/counter",
    );
    let count = "mv /usr/bin/podman /usr/bin/podman.real
        printf '#!/bin/sh\\necho \"$@\" >>/tmp/asked\\nexec /usr/bin/podman.real \"$@\"\\n' >/usr/bin/podman
        chmod +x /usr/bin/podman";
    for host in ["a", "b"] {
        f.sh(host, count);
    }
    let check = f.run("a", &["agent-client", "check", "counter", "--to", "b"]);
    assert!(check.status.success(), "{check}");
    for (host, most) in [("a", 7), ("b", 8)] {
        let asked = f.sh(host, "cat /tmp/asked");
        println!("{host}:\n{asked}\n");
        assert!(asked.lines().count() <= most, "{host}:\n{asked}");
    }
}
