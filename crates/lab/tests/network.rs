//! The switch, and what a snapshot shows of a host's network.

use lab::{Lab, can_run};

#[test]
fn hosts_reach_each_other_and_nothing_else() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-reach", &["a", "b"]).unwrap();
    let a = lab.host("a");
    for target in [
        "b",
        "198.51.100.2",
        "2001:db8:51::2",
        "198.51.100.254",
        "2001:db8:51::254",
    ] {
        a.sh(&format!("ping -c 1 -w 5 {target}")).unwrap();
    }
    let routes = a
        .sh("ip route get 192.0.2.1; ip -6 route get 2001:db8::1")
        .unwrap();
    assert!(routes.contains("via 198.51.100.254"), "{routes}");
    assert!(routes.contains("via 2001:db8:51::254"), "{routes}");
    a.sh("! ping -c 1 -w 1 192.0.2.1").unwrap();
    // The switch has no link but its bridge and the hosts' ports.
    let links = lab.switch().sh("ls /sys/class/net | sort | xargs").unwrap();
    assert_eq!(links, "a b lo switch");
    // As freshly booted: turning on forwarding is up to Podman.
    assert_eq!(a.sh("cat /proc/sys/net/ipv4/ip_forward").unwrap(), "0");
    a.sh("sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1")
        .unwrap();
}

#[test]
fn a_cut_is_silent_and_mends() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-cut", &["a", "b", "c"]).unwrap();
    let before = lab.host("b").snapshot().unwrap();
    lab.cut("b").unwrap();
    lab.host("a")
        .sh("! ping -c 1 -w 1 b && ping -c 1 -w 5 c")
        .unwrap();
    assert_eq!(
        lab.host("b").sh("cat /sys/class/net/eth0/carrier").unwrap(),
        "1"
    );
    lab.mend("b").unwrap();
    lab.host("a").sh("ping -4 -c 1 -w 5 b").unwrap();
    lab.host("a").sh("ping -6 -c 1 -w 5 b").unwrap();
    let after = lab.host("b").snapshot().unwrap();
    assert_eq!(before, after, "{}", before.diff(&after));
}

#[test]
fn a_snapshot_shows_every_kind_of_change_and_its_undoing() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-snapshot", &["a"]).unwrap();
    let host = lab.host("a");
    let flow = "-p tcp -s 192.0.2.1 -d 192.0.2.2 --sport 1000 --dport 2000";
    let entry = format!("{flow} --state ESTABLISHED -u ASSURED,SEEN_REPLY -t 600");
    host.sh(&format!("conntrack -I {entry} --mark 1")).unwrap();
    let before = host.snapshot().unwrap();

    for (does, undoes, shows) in [
        ("ip link add x type bridge", "ip link del x", "x <"),
        (
            "ip addr add 192.0.2.9/32 dev lo",
            "ip addr del 192.0.2.9/32 dev lo",
            "192.0.2.9",
        ),
        (
            "ip rule add fwmark 7 lookup 77",
            "ip rule del fwmark 7",
            "fwmark 0x7",
        ),
        (
            "ip -6 rule add fwmark 8 lookup 88",
            "ip -6 rule del fwmark 8",
            "fwmark 0x8",
        ),
        (
            "ip route add blackhole 192.0.2.64/26 table 9",
            "ip route flush table 9",
            "192.0.2.64",
        ),
        (
            "ip -6 route add blackhole 2001:db8:9::/48",
            "ip -6 route del blackhole 2001:db8:9::/48",
            "2001:db8:9",
        ),
        (
            "nft add table inet ours",
            "nft delete table inet ours",
            "table inet ours",
        ),
        (
            "sysctl -w net.ipv4.ip_forward=1",
            "sysctl -w net.ipv4.ip_forward=0",
            "ip_forward:1",
        ),
        (
            "sysctl -w net.ipv6.conf.eth0.forwarding=1",
            "sysctl -w net.ipv6.conf.eth0.forwarding=0",
            "eth0/forwarding:1",
        ),
    ] {
        host.sh(does).unwrap();
        let during = host.snapshot().unwrap();
        assert!(
            before.diff(&during).contains(shows),
            "{does}: {}",
            before.diff(&during)
        );
        assert!(during.mentions(shows) || during != before, "{does}");
        host.sh(undoes).unwrap();
        let after = host.snapshot().unwrap();
        assert_eq!(before, after, "{does}: {}", before.diff(&after));
    }
    host.sh(&format!("conntrack -U {flow} --mark 2")).unwrap();
    let during = host.snapshot().unwrap();
    assert!(
        before.diff(&during).contains("mark=2"),
        "{}",
        before.diff(&during)
    );

    let text = serde_json::to_string(&during).unwrap();
    assert_eq!(during, serde_json::from_str(&text).unwrap());
}
