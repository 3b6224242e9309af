//! Many published ports.

use std::time::Duration;

use tests::Fixture;

/// Separately published ports, and a range of more than a message has room for one by one.
#[test]
fn a_container_with_many_ports_moves() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-ports", &["echo"]);
    let ports = "-p 10000-25000:10000-25000/udp -p 7000:7000 -p 9000:7000/udp";
    f.start("a", "echo", &format!("{ports} localhost/echo"));
    let client = f.client("echo", &f.at("a", 7000), &[]);
    let check = f.run("a", &["agent-client", "check", "echo", "--to", "b"]);
    assert!(check.status.success(), "{check}");
    assert!(
        check.stdout.contains("10000-25000->10000-25000/udp"),
        "{check}"
    );
    let forwarded = tests::Migration::of(f.begin("a", "echo", "b", &["--forward-new"]));
    forwarded.assert_failed(4, &["15003 ports", "--forward-new"]);
    // Podman's own work for each of them is most of it.
    let moved = f
        .begin("a", "echo", "b", &[])
        .wait(Duration::from_secs(400));
    assert!(moved.status.success(), "{moved}");
    let after = f.client("echo", &f.at("b", 9000), &["--udp"]);
    tests::pause(300);
    client.finish_whole();
    after.finish_whole();
}
