//! Peers on the container's own host, and on its own bridge.

use tests::{Fixture, pause};

/// The address of a container in its network.
fn address(f: &Fixture, host: &str, container: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    f.sh(host, &format!("podman inspect -f '{format}' {container}"))
}

/// The neighbour entries that the agents have created for a container.
fn entries(f: &Fixture, host: &str, container: &str) -> String {
    f.in_network_of(host, container, "ip neighbour show nud permanent")
}

#[test]
fn processes_of_the_source_keep_their_connections() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::both_ways("m-inside", &["echo", "dial-out"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "echo", "-p 7000:7000 -p 7000:7000/udp localhost/echo");
    let direct = format!("{}:7000", address(&f, "a", "echo"));
    let mut clients = Vec::new();
    for at in ["127.0.0.1:7000".into(), f.at("a", 7000), direct] {
        clients.push(f.client_on("a", "echo", &at, &["--connections", "2"]));
        clients.push(f.client_on("a", "echo", &at, &["--udp"]));
    }
    // On the host that it moves to, through the address of the host it comes from.
    clients.push(f.client_on("b", "echo", &f.at("a", 7000), &[]));
    // And the other way round: a service on the host, at the address of the bridge.
    let service = tests::Job::start(f.host("a"), &["load", "serve", "10.88.0.1:7100"]);
    f.start("a", "dial-out", "localhost/dial-out 10.88.0.1:7100");
    f.assert_talks("a", "dial-out");
    let errors = f.listen_for_errors();
    pause(300);

    for (from, to) in [("a", "b"), ("b", "a"), ("a", "b")] {
        f.migrate(from, "echo", to).assert_moved();
        f.migrate(from, "dial-out", to).assert_moved();
        f.assert_talks(to, "dial-out");
        pause(500);
    }
    errors.assert_none();
    for client in clients {
        client.finish_whole();
    }
    f.sh("b", "podman rm -ft0 echo dial-out");
    drop(service);
    f.assert_as_before(&before);
}

#[test]
fn processes_of_the_source_keep_their_address() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::ring("m-address", &["echo"]);
    let before = f.look(&["a", "b", "d"]);
    f.start("a", "echo", "-p 7000:7000 localhost/echo");
    let direct = format!("{}:7000", address(&f, "a", "echo"));
    let clients = ["127.0.0.1:7000", &direct].map(|at| f.client_on("a", "echo", at, &[]));
    f.migrate("a", "echo", "b").assert_moved();
    let second = f.migrate("b", "echo", "d");
    second.assert_moved();
    assert_eq!(second.report["bypassed"], 2);
    // The first tunnel, through which they had the address of the bridge that is now gone.
    f.wait_without_tunnel("b");
    pause(2000);
    for client in clients {
        client.finish_whole();
    }
    f.sh("d", "podman rm -ft0 echo");
    f.assert_as_before(&before);
}

#[test]
fn containers_of_one_bridge_go_one_by_one() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::both_ways("m-bridge", &["echo", "dial-out"]);
    // The other container's address and the host's address: those packets pass the router.
    go_one_by_one(&f, "tcp,udp,udp-unconnected", &f.at("a", 7000));
}

#[test]
fn containers_of_a_bridge_that_nobody_tracks_go_one_by_one() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::both_ways("m-untracked", &["echo", "dial-out"]);
    for host in ["a", "b"] {
        f.sh(host, "sysctl -qw net.bridge.bridge-nf-call-iptables=0");
    }
    go_one_by_one(&f, "tcp,udp", "");
}

/// Two containers that talk to each other go from `a` to `b` and back, one after the other.
fn go_one_by_one(f: &Fixture, keep: &str, more: &str) {
    let before = f.look(&["a", "b"]);
    f.start("a", "echo", "-p 7000:7000 -p 7000:7000/udp localhost/echo");
    let at = format!("{}:7000", address(f, "a", "echo"));
    let options = format!("localhost/dial-out --keep {keep} {at} {more}");
    f.start("a", "dial-out", &options);
    let talks = |host: &str| f.assert_talks(host, "dial-out");
    talks("a");

    f.migrate("a", "echo", "b").assert_moved();
    talks("a");
    assert_ne!(entries(f, "a", "dial-out"), "");
    f.migrate("a", "dial-out", "b").assert_moved();
    talks("b");
    for container in ["echo", "dial-out"] {
        assert_eq!(entries(f, "b", container), "");
    }
    f.migrate("b", "dial-out", "a").assert_moved();
    talks("a");
    f.migrate("b", "echo", "a").assert_moved();
    talks("a");
    for container in ["echo", "dial-out"] {
        assert_eq!(entries(f, "a", container), "");
    }
    assert_eq!(f.stop_dial_out("a", "dial-out"), 0);
    f.sh("a", "podman rm -ft0 echo dial-out");
    f.assert_as_before(&before);
}
