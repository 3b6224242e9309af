use std::net::IpAddr;

use serde_json::{Value, json};

use super::rules::{Fate, Netavark, Packet, Table};
use super::{iptables, nft};

fn packet(incoming: &str, outgoing: &str) -> Packet {
    let container: IpAddr = "10.88.0.5".parse().unwrap();
    Packet {
        incoming: Some(incoming.into()),
        outgoing: Some(outgoing.into()),
        container,
        to_container: outgoing != "eth0",
        new: false,
    }
}

fn fate(table: &Table, incoming: &str, outgoing: &str, netavark: Netavark) -> Fate {
    table.fates(&packet(incoming, outgoing), netavark)[0].1
}

/// What a table saved by iptables does to packets at the source, there and back.
fn saved(lines: &str) -> [Fate; 2] {
    let table = iptables::table("iptables", lines).unwrap();
    [
        fate(&table, "eth0", "lmwg1", Netavark::Gone),
        fate(&table, "lmwg1", "eth0", Netavark::Gone),
    ]
}

#[test]
fn established_connections_pass_most_firewalls() {
    assert_eq!(saved("*filter\n:FORWARD ACCEPT [0:0]"), [Fate::Passes; 2]);
    assert_eq!(saved("*filter\n:FORWARD DROP [0:0]"), [Fate::Dropped; 2]);
    let ufw = ":FORWARD DROP [1:2]
:ufw-before-forward - [0:0]
:ufw-reject-forward - [0:0]
-A FORWARD -j ufw-before-forward
-A FORWARD -j ufw-reject-forward
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 3 -j ACCEPT";
    assert_eq!(saved(ufw), [Fate::Passes; 2]);
    let table = iptables::table("iptables", ufw).unwrap();
    let new = Packet {
        new: true,
        ..packet("eth0", "lmwg1")
    };
    assert_eq!(table.fates(&new, Netavark::Gone)[0].1, Fate::Dropped);
}

#[test]
fn docker_asks_for_a_rule_of_its_user() {
    let docker = ":FORWARD DROP [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -i docker0 -j ACCEPT";
    assert_eq!(saved(docker), [Fate::Dropped; 2]);
    let table = iptables::table("iptables", docker).unwrap();
    assert_eq!(
        table.remedy("FORWARD")[0],
        "iptables -I DOCKER-USER -i lmwg+ -j ACCEPT"
    );
    let helped =
        format!("{docker}\n-A DOCKER-USER -i lmwg+ -j ACCEPT\n-A DOCKER-USER -o lmwg+ -j ACCEPT");
    assert_eq!(saved(&helped), [Fate::Passes; 2]);
}

#[test]
fn rules_of_netavark_are_not_there_for_ever() {
    let lines = ":FORWARD DROP [0:0]
:NETAVARK_FORWARD - [0:0]
-A FORWARD -m comment --comment \"netavark firewall rules\" -j NETAVARK_FORWARD
-A NETAVARK_FORWARD -d 10.88.0.0/16 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A NETAVARK_FORWARD -s 10.88.0.0/16 -j ACCEPT";
    assert_eq!(saved(lines), [Fate::Dropped; 2]);
    let table = iptables::table("iptables", lines).unwrap();
    for netavark in [Netavark::Coming, Netavark::There] {
        assert_eq!(fate(&table, "lmwg1", "podman0", netavark), Fate::Passes);
    }
    // Those of another network let pass what comes from there, and nobody knows the peer.
    let other = lines.replace("10.88", "10.99");
    let table = iptables::table("iptables", &other).unwrap();
    assert_eq!(
        fate(&table, "lmwg1", "podman0", Netavark::There),
        Fate::Unclear
    );
}

#[test]
fn many_ways_through_the_same_chains_take_no_longer() {
    let chain = |depth: usize| {
        let jump = format!("-A c{depth} -j c{}\n", depth + 1);
        format!(":c{depth} - [0:0]\n{}", jump.repeat(20))
    };
    let chains: String = (1..16).map(chain).collect();
    let deep = format!(":FORWARD DROP [0:0]\n:c16 - [0:0]\n{chains}-A FORWARD -j c1\n");
    assert_eq!(saved(&deep), [Fate::Dropped; 2]);
    let accepted = format!("{deep}-A c16 -m set --match-set good src -j ACCEPT");
    assert_eq!(saved(&accepted), [Fate::Unclear; 2]);
    // The kernel takes no such rules.
    let circle = ":FORWARD ACCEPT [0:0]\n".to_owned() + &"-A FORWARD -j FORWARD\n".repeat(20);
    assert_eq!(saved(&circle), [Fate::Passes; 2]);
}

#[test]
fn what_is_not_known_makes_it_unclear() {
    let with = |rule: &str| saved(&format!(":FORWARD DROP [0:0]\n-A FORWARD {rule}"))[0];
    assert_eq!(with("-m set --match-set good src -j ACCEPT"), Fate::Unclear);
    assert_eq!(with("-s 192.0.2.0/24 -j ACCEPT"), Fate::Unclear);
    assert_eq!(with("-d 10.88.0.0/16 -j ACCEPT"), Fate::Passes);
    assert_eq!(with("! -d 10.88.0.0/16 -j ACCEPT"), Fate::Dropped);
    assert_eq!(with("-p udp -j ACCEPT"), Fate::Dropped);
    assert_eq!(with("-j LOG --log-prefix \"a -j ACCEPT \""), Fate::Dropped);
    // A drop that is not known to hold is no reason to worry.
    let bad = ":FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set bad src -j DROP";
    assert_eq!(saved(bad), [Fate::Passes; 2]);
}

/// What an nft table with one chain of these rules and the policy `drop` does at the source.
fn ruled(rules: &[Value]) -> Fate {
    let chain = |name: &str| json!({"family": "inet", "table": "filter", "name": name});
    let mut base = chain("forward");
    base["hook"] = "forward".into();
    base["type"] = "filter".into();
    base["policy"] = "drop".into();
    let mut objects = vec![json!({"chain": base}), json!({"chain": chain("other")})];
    let rule = |chain: &str, expr: &Value| json!({"rule": {"family": "inet", "table": "filter", "chain": chain, "expr": expr}});
    objects.extend(rules.iter().map(|expr| rule("forward", expr)));
    let established = json!([
        {"match": {"op": "in", "left": {"ct": {"key": "state"}},
            "right": ["established", "related"]}},
        {"accept": null}
    ]);
    objects.push(rule("other", &established));
    let (tables, _) = nft::tables(&json!({"nftables": objects}));
    fate(&tables[0], "lmwg1", "eth0", Netavark::Gone)
}

#[test]
fn rules_of_nft() {
    let accept = json!({"accept": null});
    let test =
        |left: Value, right: Value| json!({"match": {"op": "==", "left": left, "right": right}});
    let meta = |key: &str| json!({"meta": {"key": key}});
    assert_eq!(ruled(&[]), Fate::Dropped);
    assert_eq!(
        ruled(&[json!([{"jump": {"target": "other"}}])]),
        Fate::Passes
    );
    assert_eq!(
        ruled(&[json!([{"goto": {"target": "other"}}])]),
        Fate::Passes
    );
    // In the order they come.
    let reject = json!([{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]);
    let jump = json!([{"jump": {"target": "other"}}]);
    assert_eq!(ruled(&[reject, jump]), Fate::Dropped);
    let state = json!({"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [
        ["invalid", {"drop": null}], ["established", {"accept": null}]]}}});
    assert_eq!(ruled(&[json!([state])]), Fate::Passes);

    let wild = test(meta("iifname"), json!("lmwg*"));
    assert_eq!(
        ruled(&[json!([wild, {"counter": null}, accept])]),
        Fate::Passes
    );
    let uplinks = test(meta("iifname"), json!({"set": ["eth0", "eth1"]}));
    assert_eq!(ruled(&[json!([uplinks, accept])]), Fate::Dropped);
    let icmp = test(meta("l4proto"), json!({"set": ["icmp", "ipv6-icmp"]}));
    assert_eq!(ruled(&[json!([icmp, accept])]), Fate::Dropped);
    let six = test(meta("nfproto"), json!("ipv6"));
    assert_eq!(ruled(&[json!([six, accept])]), Fate::Dropped);
    let named = test(
        json!({"payload": {"protocol": "ip", "field": "saddr"}}),
        json!("@good"),
    );
    assert_eq!(ruled(&[json!([named, accept])]), Fate::Unclear);
    let own = test(
        json!({"payload": {"protocol": "ip", "field": "saddr"}}),
        json!({"prefix": {"addr": "10.88.0.0", "len": 16}}),
    );
    assert_eq!(ruled(&[json!([own, accept])]), Fate::Passes);
}
