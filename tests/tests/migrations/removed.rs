//! Somebody removes what moved connections need, at either end of their tunnel.

use std::time::Duration;

use tests::{Fixture, eventually, pause};

/// What is done to a host that has tunnel 1, and what its keeper reports missing. Connections stall until
/// the keeper has put it back, or, without the rules, do not even notice.
const DAMAGE: [(&str, &str); 8] = [
    ("ip rule del priority 1001", "rule 1001"),
    ("ip -6 rule del priority 1001", "rule 1001"),
    ("ip route flush table 21001", "route of table 21001"),
    ("ip link set lmwg1 down", "lmwg1 from those that are up"),
    (
        "echo 1 >/proc/sys/net/ipv4/conf/lmwg1/rp_filter",
        "settings of lmwg1",
    ),
    ("nft flush ruleset", "table inet live_migration"),
    (
        "nft delete table inet live_migration",
        "table inet live_migration",
    ),
    (
        "nft flush chain inet live_migration prerouting_1",
        "chain prerouting_1",
    ),
];

/// How often the rules are flushed at either host while connections are busy.
const FLUSHES: usize = 10;

#[test]
fn what_somebody_removes_is_put_back() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::both_ways("m-removed", &["echo"]);
    f.start("a", "echo", "-p 7000:7000 -p 7000:7000/udp localhost/echo");
    f.migrate("a", "echo", "b").assert_moved();
    f.migrate("b", "echo", "a").assert_moved();
    let streams = f.client("echo", &f.at("a", 7000), &["--connections", "3"]);
    let out = f.migrate("a", "echo", "b");
    out.assert_moved();
    assert_eq!(out.report["tunnel"]["interface"], "lmwg1");
    pause(300);
    let said = |host: &str| f.sh(host, "cat /run/live-migration/tunnels/lmwg1.log");
    let damage = |host: &str, (damage, missing): (&str, &str)| {
        let before = said(host).matches(missing).count();
        f.sh(host, damage);
        eventually(Duration::from_secs(20), || {
            let said = said(host);
            let again = said.matches(missing).count() > before;
            again
                .then_some(())
                .ok_or(format!("{damage} on {host}:\n{said}"))
        });
    };
    for host in ["a", "b"] {
        DAMAGE.iter().for_each(|done| damage(host, *done));
    }
    // The next migration does not wait for the keeper.
    f.sh("a", "ip rule del priority 1001");
    f.migrate("b", "echo", "a").assert_moved();
    f.migrate("a", "echo", "b").assert_moved();
    pause(500);
    streams.finish_whole();
}

/// Without its rules a packet of a moved connection is routed like any other, and answered with a reset.
#[test]
fn a_flush_of_all_rules_resets_no_connection() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-flush", &["echo"]);
    f.start("a", "echo", "-p 7000:7000 -p 7000:7000/udp localhost/echo");
    let busy = ["--connections", "50", "--interval-ms", "20"];
    let streams = f.client("echo", &f.at("a", 7000), &busy);
    let datagrams = f.client("echo", &f.at("a", 7000), &["--udp"]);
    f.migrate("a", "echo", "b").assert_moved();
    for host in ["a", "b"] {
        eventually(Duration::from_secs(10), || {
            let tables = f.sh(host, "nft list tables");
            let there = tables.contains("inet live_migration_1");
            there.then_some(()).ok_or(tables)
        });
    }
    let rules = |host: &str| f.sh(host, "nft list table inet live_migration 2>&1 || true");
    for host in ["a", "b"] {
        for _ in 0..FLUSHES {
            f.sh(host, "nft flush ruleset");
            eventually(Duration::from_secs(10), || {
                let rules = rules(host);
                let back = rules.contains("from_tunnel_1") && rules.contains("drop");
                back.then_some(()).ok_or(rules)
            });
        }
    }
    pause(500);
    streams.finish_whole();
    datagrams.finish_whole();
    f.sh("b", "podman rm -ft0 echo");
    // Netavark's rules are gone from both for good, ours because nothing needs them.
    for host in ["a", "b"] {
        f.wait_without_tunnel(host);
        eventually(Duration::from_secs(10), || {
            let tables = f.sh(host, "nft list tables");
            let gone = !tables.contains("live_migration");
            gone.then_some(()).ok_or(tables)
        });
    }
}
