//! Containers whose first process is Podman's (`--init`).

use tests::{Fixture, pause};

#[test]
fn an_init_program_goes_there_and_back() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::both_ways("m-init", &["counter"]);
    f.start("a", "counter", "--init -p 9000:9000 localhost/counter");
    let mut client = f.client("count", &f.at("a", 9000), &[]);
    let before = f.look(&["b"]);

    // Another build of it: the images contain its size.
    let program = f.sh("b", "readlink -f /usr/libexec/podman/catatonit");
    f.sh(
        "b",
        &format!(
            "(cat {program}; echo) >/tmp/init; chmod +x /tmp/init; mount --bind /tmp/init {program}"
        ),
    );
    let refused = f.migrate("a", "counter", "b");
    refused.assert_failed(4, &["init program", &program, "another build"]);
    f.sh("b", &format!("umount {program}"));
    client.assert_runs();

    f.migrate("a", "counter", "b").assert_moved();
    let first = f.sh("b", "podman exec counter /run/podman-init --version");
    assert!(first.contains("version"), "{first}");
    f.migrate("b", "counter", "a").assert_moved();
    pause(300);
    client.finish_whole();

    f.sh("a", "podman stop -t 5 counter && podman start counter");
    f.client("count", &f.at("a", 9000), &[]).finish_whole();
    f.sh("a", "podman rm -ft0 counter");
    f.assert_as_before(&before);
}
