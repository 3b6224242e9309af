//! Root at one end of a tunnel tries what else it leads to.

use std::net::IpAddr;

use tests::{Fixture, pause};

/// Counts what came through the tunnel for others than moved connections.
fn watch(f: &Fixture, host: &str) {
    f.sh(
        host,
        "nft add table inet watch
         nft add counter inet watch passed
         for hook in input forward; do
             nft add chain inet watch $hook \"{ type filter hook $hook priority 300; }\"
             for port in 7000-7001 7777 50051; do
                 nft add rule inet watch $hook iifname lmwg1 ct state new th dport $port counter name passed
             done
         done",
    );
}

/// How many packets it has counted, from 0 again.
fn passed(f: &Fixture, host: &str) -> u64 {
    let told = f.sh(host, "nft reset counter inet watch passed");
    let packets = told
        .split("packets ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    packets
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

/// Has what the host sends to these addresses take the tunnel, past the host's own filters.
fn aim(f: &Fixture, host: &str, targets: &[(IpAddr, u16)]) {
    let mut script = "nft add table inet aim
         nft add chain inet aim output '{ type route hook output priority -140; }'\n"
        .to_owned();
    for (address, port) in targets {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        script += &format!(
            "nft add rule inet aim output {family} daddr {address} th dport {port} \
             meta mark set mark and 0xffc0ffff or 0x10000\n"
        );
    }
    f.sh(host, &script);
}

/// Sends a datagram to each, and tries to connect; says which connections came about.
fn attack(f: &Fixture, host: &str, targets: &[(IpAddr, u16)]) -> String {
    let targets = targets
        .iter()
        .map(|(address, port)| format!("{address}/{port}"));
    let targets: Vec<_> = targets.collect();
    let script = "for target in $0 \"$@\"; do
            echo from a peer >/dev/udp/$target || true
            { timeout 2 bash -c \"exec 3<>/dev/tcp/$target\" && echo $target; } &
        done 2>/dev/null
        wait";
    let mut argv = vec!["bash", "-c", script];
    argv.extend(targets.iter().map(String::as_str));
    f.run(host, &argv).stdout
}

#[test]
fn a_peer_reaches_nothing_but_what_moved() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::both_ways("m-trespass", &["echo"]);
    let subnets = [("a", "10.66.1"), ("b", "10.66.2")];
    for (host, net) in subnets {
        f.add_network(&[host], "side", &format!("--subnet {net}.0/24"));
        f.start(
            host,
            "other",
            &format!("--network side --ip {net}.9 -p 7001:7000 -p 7001:7000/udp localhost/echo"),
        );
    }
    f.start("a", "echo", "-p 7000:7000 -p 7000:7000/udp localhost/echo");
    f.start("a", "near", "localhost/echo");
    f.start("b", "near", "--ip 10.88.0.99 localhost/echo");
    let streams = f.client("echo", &f.at("a", 7000), &["--connections", "3"]);
    let datagrams = f.client("echo", &f.at("a", 7000), &["--udp"]);
    let moved = f.migrate("a", "echo", "b");
    moved.assert_moved();
    assert_eq!(moved.report["tunnel"]["interface"], "lmwg1");
    // The way back for what a filter does not hold up.
    let inside = |host: &str| {
        f.sh(
            host,
            "ip -4 -o addr show lmwg1 | sed 's/.*inet \\([^/]*\\).*/\\1/'",
        )
    };
    for (host, at) in [("a", "b"), ("b", "a")] {
        f.sh(
            "c",
            &format!("ip route add {}/32 via {}", inside(at), f.host(host).ipv4()),
        );
    }
    for (attacker, attacked, net) in [("b", "a", "10.66.1"), ("a", "b", "10.66.2")] {
        watch(&f, attacked);
        let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let near = f.sh(
            attacked,
            "podman inspect -f '{{.NetworkSettings.IPAddress}}' near",
        );
        let (host, behind) = (f.host(attacked), f.host("c"));
        let targets = [
            // Containers: in another network, in the network of the one that moved, and a published port.
            (address(&format!("{net}.9")), 7000),
            (address(&near), 7000),
            (host.ipv4().into(), 7001),
            (address(&inside(attacked)), 7001),
            // A service on all addresses.
            (host.ipv4().into(), 50051),
            (host.ipv6().into(), 50051),
            (address(&inside(attacked)), 50051),
            // A host behind it.
            (behind.ipv4().into(), 7777),
            (behind.ipv6().into(), 7777),
        ];
        aim(&f, attacker, &targets);
        let reached = attack(&f, attacker, &targets);
        assert_eq!(
            (reached.as_str(), passed(&f, attacked)),
            ("", 0),
            "{attacker}"
        );
        // They do come to the other end.
        f.sh(
            attacked,
            "nft flush chain inet live_migration from_tunnel_1",
        );
        attack(&f, attacker, &targets);
        let without = passed(&f, attacked);
        println!("{without} packets of {attacker} pass without a filter");
        assert!(without >= targets.len() as u64, "{without}");
        f.sh(attacker, "nft delete table inet aim");
        f.sh(attacked, "nft delete table inet watch");
    }
    pause(500);
    streams.finish_whole();
    datagrams.finish_whole();
}
