//! Connections move through the firewalls of other programs, whose rules are not changed; or
//! preflight says what is missing.

use tests::{Fixture, Load, Migration, pause};

/// Refused by preflight.
const REFUSED: i32 = 4;

/// What an administrator opens for the agents, in the style of ufw: everything else that is not
/// forwarded or established is dropped. Connections with containers are allowed by the name of
/// their bridge.
const UFW: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-forward - [0:0]
:ufw-before-input - [0:0]
:ufw-user-forward - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A FORWARD -j ufw-before-forward
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p ICMP -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
-A ufw-user-forward -i podman1 -j ACCEPT
-A ufw-user-forward -o podman1 -j ACCEPT
-A ufw-user-input -p tcp -m tcp --dport 50051 -j ACCEPT
-A ufw-user-input -p udp -m udp --dport 51821:51883 -j ACCEPT
COMMIT
";

/// In the style of firewalld: zones, and a reject at the end. IPv6 sources are checked strictly.
const FIREWALLD: &str = "table inet firewalld {
    chain filter_PREROUTING {
        type filter hook prerouting priority filter + 10; policy accept;
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname lo accept
        ct state invalid drop
        jump filter_INPUT_ZONES
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname lo accept
        ct state invalid drop
        jump filter_FORWARD_ZONES
        reject with icmpx admin-prohibited
    }
    chain filter_INPUT_ZONES {
        iifname eth0 goto filter_IN_public
        goto filter_IN_public
    }
    chain filter_IN_public {
        tcp dport { 22, 50051 } accept
        udp dport 51821-51883 accept
        meta l4proto { icmp, ipv6-icmp } accept
    }
    chain filter_FORWARD_ZONES {
        ip saddr 10.77.0.0/24 accept
        ip6 saddr fd77::/64 accept
    }
}";

/// An administrator's own rules: nothing is forwarded except for containers.
const OWN: &str = "table inet own {
    chain forward {
        type filter hook forward priority filter; policy drop;
        iifname eth0 oifname podman1 accept
        iifname podman1 oifname eth0 accept
    }
}";

/// The filter table as Docker leaves it: everything not for its own containers is dropped. An
/// administrator has opened the ports of Podman's containers; netavark itself only opens the way out.
const DOCKER: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -o docker0 -j DOCKER
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-USER -o podman1 -j ACCEPT
COMMIT
";

/// All rules of all programs, except netavark's, which change with every container, and ours.
fn rules(f: &Fixture, host: &str) -> String {
    f.sh(
        host,
        "for program in iptables ip6tables; do
             $program-save -t filter | sed '/^#/d; s/ \\[.*//; /NETAVARK/d'
         done
         for table in firewalld own; do
             nft --stateless list table inet $table 2>/dev/null || true
         done",
    )
}

/// A container with connections of both families, in and out, TCP and UDP.
struct Busy<'a> {
    f: &'a Fixture,
    name: &'a str,
    clients: Vec<Load>,
    server: Load,
}

impl<'a> Busy<'a> {
    fn start(f: &'a Fixture, name: &'a str) -> Self {
        let server = f.outside_server_of(7000, 2);
        let servers = [f.at("c", 7000), f.at_ipv6("c", 7000)].join(" ");
        f.start(
            "a",
            name,
            &format!(
                "--network dual -p 7000:7000 -p 7000:7000/udp localhost/dial-out \
                 --listen [::]:7000 --keep tcp,udp {servers}"
            ),
        );
        f.assert_talks("a", name);
        let clients = [f.at("a", 7000), f.at_ipv6("a", 7000)];
        let clients = clients
            .iter()
            .flat_map(|at| [f.client("echo", at, &[]), f.client("echo", at, &["--udp"])]);
        Busy {
            clients: clients.collect(),
            f,
            name,
            server,
        }
    }

    fn migrate(&self) -> Migration {
        self.f.migrate("a", self.name, "b")
    }

    /// All connections survived the move, and still work.
    fn finish(self) {
        pause(1500);
        for client in self.clients {
            client.finish_whole();
        }
        let (f, name) = (self.f, self.name);
        // The last echoes may take longer than Podman waits by itself.
        f.sh("b", &format!("podman stop -t 60 {name}"));
        let said = f.sh("b", &format!("podman logs {name}"));
        assert_eq!(said.matches("alive: true").count(), 2, "{said}");
        assert!(!said.contains("BROKEN"), "{said}");
        self.server.finish_whole();
        f.sh("b", &format!("podman rm {name}"));
    }
}

/// Moves connections while these rules are loaded on both hosts; the rules must be unchanged
/// afterwards.
fn moves_past(f: &Fixture, name: &str, load: &str, unload: &str) {
    for host in ["a", "b"] {
        f.sh(host, load);
    }
    let before = ["a", "b"].map(|host| rules(f, host));
    let busy = Busy::start(f, name);
    busy.migrate().assert_moved();
    busy.finish();
    assert_eq!(["a", "b"].map(|host| rules(f, host)), before);
    // The tunnel is removed first, so that a new one has to pass the rules.
    for host in ["a", "b"] {
        f.sh(host, unload);
    }
}

fn fixture(lab: &str) -> Fixture {
    let f = Fixture::new(lab, &["dial-out"]);
    let dual = "--ipv6 --subnet 10.77.0.0/24 --subnet fd77::/64 --interface-name podman1";
    f.add_network(&["a", "b"], "dual", dual);
    f
}

#[test]
fn those_that_let_established_connections_pass() {
    if !lab::can_run() {
        return;
    }
    let f = fixture("m-firewalls");
    let before = f.look(&["a", "b"]);
    let strict = |value: u8| {
        format!(
            "for which in all default eth0; do sysctl -qw net.ipv4.conf.$which.rp_filter={value}; done"
        )
    };
    moves_past(
        &f,
        "ufw",
        &format!("{}\n{}", restore(UFW), strict(1)),
        &format!(
            "{FLUSH}\n{}\nsysctl -qw net.ipv4.conf.all.rp_filter=0",
            strict(2)
        ),
    );
    moves_past(
        &f,
        "firewalld",
        &format!("nft -f - <<'END'\n{FIREWALLD}\nEND"),
        "nft delete table inet firewalld",
    );
    f.assert_as_before(&before);
}

/// Loads rules for both families.
fn restore(rules: &str) -> String {
    let rules_of_ipv6 = rules.replace("ICMP", "ipv6-icmp");
    format!(
        "iptables-restore <<'END'\n{rules}END\n\
         ip6tables-restore <<'END'\n{rules_of_ipv6}END"
    )
}

/// As if nobody had ever used iptables.
const FLUSH: &str = "nft delete table ip filter; nft delete table ip6 filter";

#[test]
fn those_that_know_only_interfaces() {
    if !lab::can_run() {
        return;
    }
    let f = fixture("m-own-rules");
    let before = f.look(&["a", "b"]);
    for host in ["a", "b"] {
        f.sh(host, &format!("nft -f - <<'END'\n{OWN}\nEND"));
        // The clients are in the same network; the container's addresses at the source are in none.
        f.sh(host, "ip route del default");
    }
    let busy = Busy::start(&f, "web");
    let commands = ["iifname", "oifname"]
        .map(|way| format!("nft insert rule inet own forward {way} 'lmwg*' accept"));
    let [first, second] = &commands;
    for (host, place) in [
        ("a", "firewalls here"),
        ("b", "firewalls on the destination"),
    ] {
        busy.migrate().assert_failed(
            REFUSED,
            &[place, "inet own forward drops packets", first, second],
        );
        f.sh(host, &commands.join("\n"));
    }
    for host in ["a", "b"] {
        f.sh(host, "sysctl -qw net.ipv4.conf.all.rp_filter=2");
    }
    busy.migrate()
        .assert_failed(REFUSED, &["no default route", "rp_filter=0"]);
    for host in ["a", "b"] {
        f.sh(host, "sysctl -qw net.ipv4.conf.all.rp_filter=0");
    }
    busy.migrate().assert_moved();
    busy.finish();
    for host in ["a", "b"] {
        f.sh(host, "nft delete table inet own");
        f.sh(host, "ip route add default via 198.51.100.254 dev eth0");
    }
    f.assert_as_before(&before);
}

#[test]
fn docker_beside_netavark_with_iptables() {
    if !lab::can_run() {
        return;
    }
    let f = fixture("m-docker");
    let driver = |host: &str, name: &str| {
        let script = "sed -i 's/firewall_driver = .*/firewall_driver = \"NAME\"/' \
             /etc/containers/containers.conf";
        f.sh(host, &script.replace("NAME", name));
    };
    driver("a", "iptables");
    for host in ["a", "b"] {
        f.sh(host, &restore(DOCKER));
    }
    let busy = Busy::start(&f, "web");
    let commands = ["iptables", "ip6tables"].map(|program| {
        ["-i", "-o"].map(|way| format!("{program} -I DOCKER-USER {way} lmwg+ -j ACCEPT"))
    });
    let commands = commands.as_flattened();
    let words: Vec<&str> = commands.iter().map(String::as_str).collect();
    let refused = busy.migrate();
    refused.assert_failed(REFUSED, &["firewalls here"]);
    refused.assert_says(&words);
    f.sh("a", &commands.join("\n"));
    let before = ["a", "b"].map(|host| rules(&f, host));
    // At the destination it depends on netavark, whose rules come with the container.
    busy.migrate()
        .assert_failed(1, &["iptables FORWARD drops packets", &commands[0]]);
    driver("b", "iptables");
    let moved = busy.migrate();
    moved.assert_moved();
    moved.assert_says(&["iptables FORWARD may drop packets"]);
    busy.finish();
    assert_eq!(["a", "b"].map(|host| rules(&f, host)), before);
    f.wait_without_tunnel("a");
}
