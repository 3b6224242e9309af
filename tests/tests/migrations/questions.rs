//! How often a check calls Podman, which takes seconds on some hosts.

use tests::Fixture;

/// Beside the container at either host; none of them may cost a process. As many with a volume and a
/// network, and as many without.
const OTHERS: usize = 12;

/// How often Podman may be started at either host.
const MOST: usize = 5;

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
                 for i in $(seq {OTHERS}); do podman run -qd --network none localhost/counter; done
                 for i in $(seq {OTHERS}); do
                     podman run -qd --network back -v other$i:/data localhost/counter
                 done"
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
    let assert_few = || {
        for host in ["a", "b"] {
            let asked = f.sh(host, "cat /tmp/asked; rm /tmp/asked");
            println!("{host}:\n{asked}\n");
            assert!(asked.lines().count() <= MOST, "{host}:\n{asked}");
        }
    };
    let check = f.run("a", &["agent-client", "check", "counter", "--to", "b"]);
    assert!(check.status.success(), "{check}");
    assert_few();

    // Who else uses the volumes costs nothing either.
    f.sh(
        "a",
        "for name in three four; do
             podman.real create -q --name $name -v one:/one -v two:/other localhost/counter
         done",
    );
    let check = f.run("a", &["agent-client", "check", "counter", "--to", "b"]);
    assert!(!check.status.success(), "{check}");
    let said = check.to_string();
    assert_eq!(said.matches("is also used by").count(), 2, "{said}");
    for name in ["three", "four"] {
        let id = f.sh("a", &format!("podman.real inspect -f '{{{{.Id}}}}' {name}"));
        assert_eq!(said.matches(&id[..12]).count(), 2, "{said}");
    }
    assert_few();
}
