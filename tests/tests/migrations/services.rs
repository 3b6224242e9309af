//! Between hosts with systemd and a distribution's defaults: crun, cgroups and scopes of systemd, the
//! journal, and commands that are typed after a login.

use tests::{Fixture, pause};

#[test]
fn there_and_back_with_the_defaults() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::services("m-defaults", &["echo"]);
    f.start("a", "echo", "-p 7000:7000 -p 7000:7000/udp localhost/echo");
    let runtime = f.sh("a", "podman inspect -f '{{.OCIRuntime}}' echo");
    assert_eq!(runtime, "crun");
    let streams = f.client("echo", &f.at("a", 7000), &["--connections", "5"]);
    let datagrams = f.client("echo", &f.at("a", 7000), &["--udp"]);
    pause(300);
    f.migrate("a", "echo", "b").assert_moved();
    pause(500);
    f.migrate("b", "echo", "a").assert_moved();
    pause(500);
    streams.finish_whole();
    datagrams.finish_whole();
}
