//! More than two hosts: `a`, `b` and `d` have containers, `c` has the clients.

use tests::{Fixture, Migration, pause};

/// A firewall that lets in what the agents' documentation asks for, and no other new connections.
const WALL: &str = "
nft add table inet wall
nft add chain inet wall in '{ type filter hook input priority 0; policy drop; }'
nft add rule inet wall in ct state established,related accept
nft add rule inet wall in iif lo accept
nft add rule inet wall in meta l4proto icmpv6 accept
nft add rule inet wall in tcp dport 50051 accept
nft add rule inet wall in udp dport 51821-51883 accept
";

#[test]
fn the_host_in_the_middle_drops_out() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::ring("m-chain", &["echo"]);
    for host in ["a", "b", "d"] {
        f.sh(host, WALL);
    }
    let before = f.look(&["a", "b", "d"]);
    f.start("a", "echo", "-p 7000:7000 -p 7000:7000/udp localhost/echo");
    let defined = f.definition("a", "echo");
    let streams = f.client("echo", &f.at("a", 7000), &["--connections", "5"]);
    let datagrams = f.client("echo", &f.at("a", 7000), &["--udp"]);
    pause(300);

    let first = f.migrate("a", "echo", "b");
    first.assert_moved();
    assert_eq!(first.report["bypassed"], 0);
    let entered_at_b = f.client("echo", &f.at("b", 7000), &["--connections", "2"]);
    pause(300);
    let second = f.migrate("b", "echo", "d");
    second.assert_moved();
    assert_eq!(second.report["bypassed"], 6, "{:#}", second.report);
    let warnings = second.warnings();
    assert!(warnings.is_empty(), "{warnings:?}");

    // At this point b is only needed for what entered there.
    entered_at_b.finish_whole();
    f.wait_without_tunnel("b");
    f.lab().cut("b").expect("b can be cut off");
    pause(1500);
    f.lab().mend("b").expect("b can be connected again");

    f.migrate("d", "echo", "a").assert_moved();
    pause(500);
    let servers = streams.finish_whole()["servers"].clone();
    assert_eq!(datagrams.finish_whole()["servers"], servers);
    assert_eq!(f.definition("a", "echo"), defined);
    f.sh("a", "podman rm -ft0 echo");
    f.assert_as_before(&before);
}

#[test]
fn hosts_that_cannot_reach_each_other_keep_the_long_path() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::ring("m-detour", &["echo"]);
    let before = f.look(&["a", "b", "d"]);
    f.start("a", "echo", "-p 7000:7000 localhost/echo");
    let streams = f.client("echo", &f.at("a", 7000), &["--connections", "3"]);
    f.migrate("a", "echo", "b").assert_moved();
    let wall = format!(
        "nft add table inet wall
         nft add chain inet wall in '{{ type filter hook input priority -300; }}'
         nft add rule inet wall in ip saddr {} udp dport 51821-51883 drop
         nft add rule inet wall in ip6 saddr {} udp dport 51821-51883 drop",
        f.host("a").ipv4(),
        f.host("a").ipv6()
    );
    f.sh("d", &wall);

    let second = f.migrate("b", "echo", "d");
    second.assert_moved().assert_says(&[
        "3 connections that enter at",
        "still go through this host",
        "no WireGuard handshake",
    ]);
    assert_eq!(second.report["bypassed"], 0);
    pause(500);
    streams.finish_whole();

    f.sh("d", "nft delete table inet wall; podman rm -ft0 echo");
    f.assert_as_before(&before);
}

#[test]
fn two_containers_in_opposite_directions_at_once() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::ring("m-opposite", &["counter"]);
    let before = f.look(&["a", "b", "d"]);
    f.start("a", "one", "-p 9000:9000 localhost/counter");
    // Podman gives the first container on each host the same address.
    f.start("b", "two", "-p 9001:9000 --ip 10.88.0.77 localhost/counter");
    f.start("a", "three", "-p 9002:9000 localhost/counter");
    let clients = [("a", 9000), ("b", 9001), ("a", 9002)]
        .map(|(host, port)| f.client("count", &f.at(host, port), &[]));
    pause(200);

    let moves = [("a", "one", "b"), ("b", "two", "a"), ("a", "three", "d")];
    let jobs = moves.map(|(from, container, to)| f.begin(from, container, to, &[]));
    for job in jobs {
        Migration::of(job).assert_moved();
    }
    pause(500);
    for client in clients {
        client.finish_whole();
    }
    for (_, container, host) in moves {
        f.sh(host, &format!("podman rm -ft0 {container}"));
    }
    f.assert_as_before(&before);
}
