//! Every kind of flow moves once, watched by a client that was connected before.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{Fixture, Job, Load, eventually, pause};

/// For what comes soon: only how long something that is wrong is waited for.
const SOON: Duration = Duration::from_secs(120);

/// Ends clients, each of which must have seen one whole connection to the same process.
#[track_caller]
fn finish_all(clients: Vec<Load>) {
    let servers: Vec<Value> = clients
        .into_iter()
        .map(|client| client.finish_whole()["servers"].clone())
        .collect();
    assert!(servers.windows(2).all(|w| w[0] == w[1]), "{servers:?}");
}

#[test]
fn both_families_with_addresses_that_were_chosen() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-families", &["echo"]);
    let dual = "--ipv6 --subnet 10.77.0.0/24 --subnet fd77::/64";
    f.add_network(&["a", "b"], "dual", dual);
    f.add_network(&["a", "b"], "six", "--ipv6 --subnet fd78::/64");
    let before = f.look(&["a", "b", "c"]);
    f.start(
        "a",
        "both",
        "--network dual --ip 10.77.0.7 --ip6 fd77::7 --mac-address 02:00:00:00:77:07 \
         -p 7000:7000 -p 7000:7000/udp localhost/echo --listen [::]:7000",
    );
    f.start(
        "a",
        "six",
        "--network six -p 7001:7000 -p 7001:7000/udp localhost/echo --listen [::]:7000",
    );
    let defined = ["both", "six"].map(|name| f.definition("a", name));
    let of_both = [f.at("a", 7000), f.at_ipv6("a", 7000)];
    let of_both: Vec<Load> = of_both.iter().flat_map(|at| clients(&f, at)).collect();
    let of_six = clients(&f, &f.at_ipv6("a", 7001)).into();
    let errors = f.listen_for_errors();
    pause(300);

    let migration = f.migrate("a", "both", "b");
    migration.assert_moved();
    assert_eq!(migration.report["flows"]["tcp"], 6);
    assert_eq!(migration.report["flows"]["udp"], 2);
    f.migrate("a", "six", "b").assert_moved();
    pause(1500);
    errors.assert_none();
    for at in [f.at("b", 7000), f.at_ipv6("b", 7000), f.at_ipv6("b", 7001)] {
        f.client("echo", &at, &[]).finish_whole();
    }
    finish_all(of_both);
    finish_all(of_six);
    assert_eq!(["both", "six"].map(|name| f.definition("b", name)), defined);

    f.sh("b", "podman rm -ft0 both six");
    f.assert_as_before(&before);
}

/// Three TCP connections and a UDP flow.
fn clients(f: &Fixture, at: &str) -> [Load; 2] {
    [
        f.client("echo", at, &["--connections", "3"]),
        f.client("echo", at, &["--udp"]),
    ]
}

#[test]
fn ports_of_every_kind() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-ports", &["echo"]);
    let before = f.look(&["a", "b", "c"]);
    f.start(
        "a",
        "echo",
        "-p 8000-8002:6999-7001 -p 8010:7000/udp -p 127.0.0.1:8020:7000 \
         -p 198.51.100.1:8030:7000 localhost/echo",
    );
    let defined = f.definition("a", "echo");
    let clients = vec![
        f.client("echo", &f.at("a", 8001), &[]),
        f.client("echo", &f.at("a", 8010), &["--udp"]),
        f.client("echo", &f.at("a", 8030), &[]),
    ];
    let errors = f.listen_for_errors();
    f.migrate("a", "echo", "b").assert_failed(
        4,
        &[
            "198.51.100.1:8030->7000/tcp",
            "does not have the address",
            "sysctl -w net.ipv4.ip_nonlocal_bind=1",
        ],
    );
    f.sh("b", "sysctl -qw net.ipv4.ip_nonlocal_bind=1");
    f.migrate("a", "echo", "b").assert_moved();
    pause(500);
    errors.assert_none();
    assert_eq!(f.definition("b", "echo"), defined);
    // The address is added after the container, as a load balancer's would be.
    f.sh("b", "ip addr add 198.51.100.77/24 dev eth0");
    f.client("echo", &f.at("b", 8001), &[]).finish_whole();
    finish_all(clients);

    f.sh(
        "b",
        "ip addr del 198.51.100.77/24 dev eth0
         sysctl -qw net.ipv4.ip_nonlocal_bind=0
         podman rm -ft0 echo",
    );
    f.assert_as_before(&before);
}

#[test]
fn what_the_container_opened_itself() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-outgoing", &["dial-out"]);
    let dual = "--ipv6 --subnet 10.77.0.0/24 --subnet fd77::/64";
    f.add_network(&["a", "b"], "dual", dual);
    let before = f.look(&["a", "b"]);
    let server = f.outside_server_of(7000, 2);
    f.start(
        "a",
        "dial-out",
        &format!(
            "--network dual localhost/dial-out --keep tcp,udp,udp-unconnected {} {}",
            f.at("c", 7000),
            f.at_ipv6("c", 7000)
        ),
    );
    f.assert_talks("a", "dial-out");
    let errors = f.listen_for_errors();

    let migration = f.migrate("a", "dial-out", "b");
    migration.assert_moved();
    assert_eq!(migration.report["flows"]["tcp"], 2);
    f.assert_talks("b", "dial-out");
    pause(1000);
    errors.assert_none();
    // The last echoes may take longer than Podman waits by itself.
    f.sh("b", "podman stop -t 60 dial-out");
    let said = f.sh("b", "podman logs dial-out");
    assert!(!said.contains("BROKEN"), "{said}");
    assert_eq!(said.matches("alive: true").count(), 4, "{said}");
    let seen = server.finish_whole();
    // The source's addresses, and the ports it chose, until the end.
    let senders = seen["senders"].as_array().expect("a list");
    assert_eq!(senders.len(), 4, "{seen:#}");
    let from_a = |sender: &&Value| {
        let sender = sender.as_str().expect("an address");
        sender.contains("198.51.100.1]:") || sender.contains("2001:db8:51::1]:")
    };
    assert_eq!(senders.iter().filter(from_a).count(), 4, "{seen:#}");

    f.sh("b", "podman rm dial-out");
    f.assert_as_before(&before);
}

#[test]
fn echo_requests() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-ping", &["echo"]);
    let dual = "--ipv6 --subnet 10.77.0.0/24 --subnet fd77::/64";
    f.add_network(&["a", "b"], "dual", dual);
    let before = f.look(&["a", "b"]);
    let addresses = ["10.77.0.7", "fd77::7"];
    let [v4, v6] = addresses;
    f.start(
        "a",
        "echo",
        &format!("--network dual --ip {v4} --ip6 {v6} localhost/echo"),
    );
    // As long as a migration takes, and the same on all hosts.
    for host in ["a", "b"] {
        f.sh(
            host,
            "echo 30 >/proc/sys/net/netfilter/nf_conntrack_icmp_timeout",
        );
        f.sh(
            host,
            "echo 30 >/proc/sys/net/netfilter/nf_conntrack_icmpv6_timeout",
        );
    }
    f.sh(
        "c",
        &format!("ip route add {v4} via {}", f.host("a").ipv4()),
    );
    f.sh(
        "c",
        &format!("ip route add {v6} via {}", f.host("a").ipv6()),
    );
    let pings = addresses.map(|address| Job::start(f.host("c"), &["ping", "-i", "0.1", address]));
    // A program in the container that has the same identifier before and after.
    let ping_out = |host: &str| {
        let c = f.host("c").ipv4();
        let ping = format!("ping -qe 4711 -c 3 -i 0.1 {c}");
        f.in_network_of(host, "echo", &ping);
    };
    ping_out("a");
    let capture = "exec tcpdump -nli eth0 'icmp[0] == 8 and icmp[4:2] == 4711'";
    let seen = Job::start(f.host("c"), &["sh", "-c", capture]);
    eventually(SOON, || {
        let said = seen.stderr();
        said.contains("listening on").then_some(()).ok_or(said)
    });

    f.migrate("a", "echo", "b").assert_moved();
    ping_out("b");
    for ping in pings {
        // Also some that were sent after the move.
        let least = answered(&ping).len() + 10;
        eventually(SOON, || {
            let numbers = answered(&ping);
            let count = numbers.len();
            let whole = count >= least && numbers.last() == Some(&count);
            whole.then_some(()).ok_or_else(|| ping.stdout())
        });
    }
    // tcpdump prints packets a while after they came.
    let seen = eventually(SOON, || match seen.stdout() {
        three if three.lines().count() >= 3 => Ok(three),
        fewer => Err(fewer),
    });
    let from_a = format!("IP {} >", f.host("a").ipv4());
    assert!(seen.lines().all(|line| line.contains(&from_a)), "{seen}");

    for host in ["a", "b"] {
        f.sh(
            host,
            "echo 1 >/proc/sys/net/netfilter/nf_conntrack_icmp_timeout",
        );
        f.sh(
            host,
            "echo 30 >/proc/sys/net/netfilter/nf_conntrack_icmpv6_timeout",
        );
    }
    f.sh("b", "podman rm -ft0 echo");
    f.assert_as_before(&before);
}

/// The numbers of the echo requests that were answered, from 1 on.
fn answered(ping: &Job) -> BTreeSet<usize> {
    let said = ping.stdout();
    let answers = said.lines().filter(|line| line.contains(" time="));
    answers
        .filter_map(|line| {
            line.split("icmp_seq=")
                .nth(1)?
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .collect()
}

#[test]
fn connections_that_are_half_closed() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-halves", &["halves"]);
    let before = f.look(&["a", "b", "c"]);
    f.start("a", "halves", "-p 7000:7000 -p 7001:7001 localhost/halves");
    f.wait_for_port("a", "halves", 't', 7000);
    f.wait_for_port("a", "halves", 't', 7001);
    // Half a minute at least, so that it is being written to when it is frozen.
    let script = "exec nc -4N a 7000 >/tmp/written";
    let listens = Job::with_input(f.host("c"), &["sh", "-c", script], b"3000\n");
    let script = "(n=0
         while [ ! -e /tmp/moved ]; do n=$((n + 1)); echo $n; sleep 0.01; done
         echo $n >/tmp/said) | nc -4N a 7001";
    let talks = Job::start(f.host("c"), &["bash", "-c", script]);
    let errors = f.listen_for_errors();
    eventually(SOON, || {
        let states = f.sh("c", "ss -Htn dst a | awk '{print $1}' | sort | xargs");
        (states == "CLOSE-WAIT FIN-WAIT-2")
            .then_some(())
            .ok_or(states)
    });

    let migration = f.migrate("a", "halves", "b");
    migration.assert_moved();
    assert_eq!(migration.report["flows"]["tcp"], 2);
    pause(300);
    // Not later: whoever has closed a connection answers a FIN that is repeated with a reset.
    errors.assert_none();
    f.sh("c", "touch /tmp/moved");
    for client in [listens, talks] {
        let output = client.wait(SOON);
        assert!(output.status.success(), "{output}");
    }
    f.sh("c", "seq 3000 | cmp - /tmp/written");
    let wrote = format!("wrote {} lines", f.sh("c", "cat /tmp/said"));
    eventually(SOON, || {
        let said = f.sh("b", "podman logs halves");
        let whole = said.contains(&wrote) && said.contains("was written 3000 lines");
        whole.then_some(()).ok_or(said)
    });

    f.sh("b", "podman rm -ft0 halves");
    f.assert_as_before(&before);
}

#[test]
fn connections_that_wait_to_be_accepted() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-accept", &["halves"]);
    let before = f.look(&["a", "b", "c"]);
    let client = |script: &str| Job::start(f.host("c"), &["bash", "-c", script]);
    let finish = |client: Job| {
        let output = client.wait(SOON);
        assert!(output.status.success(), "{output}");
    };
    let connected = |port: u16| {
        eventually(SOON, || {
            let connections = f.sh("c", &format!("ss -Htn dst {}", f.at("a", port)));
            let open = !connections.is_empty() && !connections.contains("SYN-SENT");
            open.then_some(()).ok_or(connections)
        });
    };
    let errors = f.listen_for_errors();

    // Slow: the freeze waits for it.
    f.start(
        "a",
        "slow",
        "-p 7000:7000 localhost/halves --accept-ms 4000",
    );
    f.wait_for_port("a", "slow", 't', 7000);
    let waits = client("echo 600 | nc -4N a 7000 | cmp - <(seq 600)");
    connected(7000);
    f.migrate("a", "slow", "b").assert_moved();
    // Not later: see above.
    errors.assert_none();
    finish(waits);

    // Too slow: nothing moves, and the connection stays whole.
    f.start(
        "a",
        "slower",
        "-p 7001:7001 localhost/halves --accept-after /told",
    );
    f.wait_for_port("a", "slower", 't', 7001);
    let errors = f.listen_for_errors();
    let waits = client("(seq 100; while [ ! -e /tmp/end ]; do sleep 0.1; done) | nc -4N a 7001");
    connected(7001);
    f.migrate("a", "slower", "b")
        .assert_failed(1, &["1 connections wait for the container to accept them"]);
    errors.assert_none();
    f.sh(
        "a",
        "touch /proc/$(podman inspect -f '{{.State.Pid}}' slower)/root/told",
    );
    eventually(SOON, || {
        let said = f.sh("a", "podman logs slower");
        said.contains("accepted").then_some(()).ok_or(said)
    });
    f.sh("c", "touch /tmp/end");
    finish(waits);
    eventually(SOON, || {
        let said = f.sh("a", "podman logs slower");
        let whole = said.contains("wrote 100 lines");
        whole.then_some(()).ok_or(said)
    });

    f.sh("a", "podman rm -ft0 slower");
    f.sh("b", "podman rm -ft0 slow");
    f.assert_as_before(&before);
}

#[test]
fn a_thousand_connections() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-thousand", &["echo"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "echo", "-p 7000:7000 localhost/echo");
    let many = ["--connections", "1000", "--interval-ms", "1000"];
    let client = f.client("echo", &f.at("a", 7000), &many);

    let moved = f.migrate("a", "echo", "b");
    moved.assert_moved();
    assert_eq!(moved.report["flows"]["tcp"], 1000);
    pause(3000);
    assert_eq!(client.finish_whole()["connections"], 1000);
    f.sh("b", "podman rm -ft0 echo");
    f.assert_as_before(&before);
}

#[test]
fn datagrams_on_their_way_to_a_container_that_returns() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::both_ways("m-on-the-way", &["echo"]);
    let before = f.look(&["a", "b", "c"]);
    f.start("a", "echo", "-p 7000:7000/udp localhost/echo");
    let client = f.client("echo", &f.at("a", 7000), &["--udp", "--interval-ms", "5"]);
    f.migrate("a", "echo", "b").assert_moved();
    // The tunnel begins in userspace, where packets wait for most of the time. For as long as it takes at most.
    let slow = "keeper=$(pgrep -f ^tunnel-keeper)
         for i in $(seq 2500); do
             kill -STOP $keeper; sleep 0.08; kill -CONT $keeper; sleep 0.02
         done";
    let slowed = Job::start(f.host("a"), &["sh", "-c", slow]);
    pause(1000);
    f.migrate("b", "echo", "a").assert_moved();
    slowed.signal(Signal::SIGTERM);
    f.sh("a", "pkill -CONT -f ^tunnel-keeper");
    assert_eq!(client.finish_whole()["lost"], 0);
    f.sh("a", "podman rm -ft0 echo");
    f.assert_as_before(&before);
}
