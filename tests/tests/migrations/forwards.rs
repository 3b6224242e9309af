//! New connections to a host that a container has moved away from. `a`, `b` and `d` have containers,
//! `c` has the clients.

use std::time::Duration;

use tests::{Fixture, Migration, eventually, pause};

const FORWARD: &[&str] = &["--forward-new"];

/// Longer than a tunnel without connections lasts.
const IDLE_MS: u64 = 15_000;

/// Lets moved connections pass, but no new ones.
const WALL: &str = "
nft add table inet wall
nft add chain inet wall forward '{ type filter hook forward priority 0; policy drop; }'
nft add rule inet wall forward ct state established,related accept
";

fn move_forwarding(f: &Fixture, from: &str, name: &str, to: &str) -> Migration {
    Migration::of(f.begin(from, name, to, FORWARD))
}

/// How long connections that have ended are remembered, in the kernel's directory of such limits.
const REMEMBERED: [&str; 3] = [
    "nf_conntrack_tcp_timeout_last_ack",
    "nf_conntrack_udp_timeout",
    "nf_conntrack_udp_timeout_stream",
];

/// Checks that connections to host `at` reach the container.
fn assert_reached(f: &Fixture, at: &str) {
    assert_reached_by(f, &[&f.at(at, 7000)]);
}

fn assert_reached_by(f: &Fixture, targets: &[&str]) {
    let clients: Vec<_> = targets
        .iter()
        .flat_map(|target| {
            let clients: [&[&str]; 2] = [&[], &["--udp"]];
            clients.map(|options| f.client("echo", target, options))
        })
        .collect();
    pause(500);
    for client in clients {
        client.finish_whole();
    }
}

#[test]
fn new_connections_follow_until_told_otherwise() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::both_ways("m-forward", &["echo"]);
    let dual = "--ipv6 --subnet 10.77.0.0/24 --subnet fd77::/64";
    f.add_network(&["a", "b"], "dual", dual);
    f.sh("b", "sysctl -qw net.ipv4.ip_nonlocal_bind=1");
    let before = f.look(&["a", "b"]);
    let own = f.at("a", 7001);
    f.start(
        "a",
        "echo",
        &format!(
            "--network dual -p 7000:7000 -p 7000:7000/udp -p {own}:7000 -p {own}:7000/udp \
             localhost/echo --listen [::]:7000"
        ),
    );
    let targets = [f.at("a", 7000), f.at_ipv6("a", 7000), own];
    let targets = targets.each_ref().map(String::as_str);
    let errors = f.listen_for_errors();
    let moved = move_forwarding(&f, "a", "echo", "b");
    moved.assert_moved();
    let forwarded = moved.report["forwarded_ports"].as_array();
    assert_eq!(forwarded.map(Vec::len), Some(4), "{:#}", moved.report);
    assert_reached_by(&f, &targets);
    errors.assert_none();
    let itself = format!("exec 3<>/dev/tcp/{}/7000 && echo >&3", f.host("a").ipv4());
    assert!(f.run("a", &["bash", "-c", &itself]).status.success());

    // Neither end considers the tunnel unused, and nothing else can take the port by accident.
    let limits = REMEMBERED.map(|name| format!("/proc/sys/net/netfilter/{name}"));
    let before_idle = limits
        .each_ref()
        .map(|limit| f.sh("b", &format!("cat {limit}; echo 1 >{limit}")));
    pause(IDLE_MS);
    // A connection that was still being closed may be remembered for a little longer.
    eventually(Duration::from_secs(60), || {
        let kept = f.sh("b", "agent-client cleanup");
        assert!(!kept.is_empty() && !kept.contains("taken down"), "{kept}");
        let asked = kept.contains("the other host sends");
        asked.then_some(()).ok_or(kept)
    });
    for (limit, seconds) in limits.iter().zip(before_idle) {
        f.sh("b", &format!("echo {seconds} >{limit}"));
    }
    assert_reached_by(&f, &targets);
    let other = f.run("a", &["podman", "run", "-dp7000:7000", "localhost/echo"]);
    assert!(!other.status.success(), "{other}");
    assert!(other.stderr.contains("address already in use"), "{other}");
    f.sh("a", "podman rm -fat0");
    let listed = f.sh("a", "agent-client forward list");
    for word in ["echo", "7000->7000/tcp", "7001->7000/udp", "active"] {
        assert!(listed.contains(word), "{listed}");
    }

    let lasting = f.client("echo", &f.at("a", 7000), &[]);
    f.sh("a", "agent-client forward remove echo");
    pause(1500);
    lasting.finish_whole();
    let refused = f.run("c", &["bash", "-c", &itself]);
    assert!(refused.stderr.contains("refused"), "{refused}");
    let unknown = f.run("a", &["agent-client", "forward", "remove", "echo"]);
    assert!(
        unknown.stderr.contains("no forwards here fit `echo`"),
        "{unknown}"
    );
    assert_eq!(f.sh("a", "agent-client forward list"), "");

    f.sh("b", "podman rm -ft0 echo");
    f.assert_as_before(&before);
}

#[test]
fn a_forward_follows_its_container_and_ends_when_it_comes_back() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::ring("m-follow", &["echo"]);
    let before = f.look(&["a", "b", "d"]);
    f.start("a", "echo", "-p 7000:7000 -p 7000:7000/udp localhost/echo");
    move_forwarding(&f, "a", "echo", "b").assert_moved();
    let lasting = f.client("echo", &f.at("a", 7000), &[]);
    pause(300);
    let second = f.migrate("b", "echo", "d");
    second.assert_moved();
    assert_eq!(second.report["warnings"], serde_json::json!([]));
    assert_reached(&f, "a");
    f.wait_without_tunnel("b");
    assert_reached(&f, "a");

    f.migrate("d", "echo", "a").assert_moved();
    assert_reached(&f, "a");
    assert_eq!(f.sh("a", "agent-client forward list"), "");
    lasting.finish_whole();
    f.sh("a", "podman rm -ft0 echo");
    f.assert_as_before(&before);
}

#[test]
fn a_forward_survives_what_happens_to_migrations() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::fragile("m-fwd-break", &["echo", "counter"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "silent", "localhost/counter");
    let job = f.begin("a", "silent", "b", FORWARD);
    Migration::of(job).assert_failed(4, &["publishes no ports"]);
    f.sh("a", "podman rm -ft0 silent");
    f.start("a", "echo", "-p 7000:7000 -p 7000:7000/udp localhost/echo");

    f.sh("a", WALL);
    let looked = Migration::of(f.begin("a", "echo", "b", &["--dry-run"]));
    assert_eq!(looked.report["outcome"], "possible", "{:#}", looked.report);
    Migration::of(f.begin("a", "echo", "b", &["--dry-run", "--forward-new"]))
        .assert_failed(4, &["inet wall forward drops", "nft insert rule"]);
    f.sh("a", "nft delete table inet wall");

    // Undone with the migration.
    let dies = [("FAILPOINTS", "client.phase.ship=1*return(kill)")];
    f.begin_with("a", "echo", "b", FORWARD, &dies)
        .wait(Duration::from_secs(300));
    f.sh("a", "agent-client recover");
    assert_eq!(f.sh("a", "agent-client forward list"), "");
    assert_reached(&f, "a");

    // Finished with the migration.
    let dies = [("FAILPOINTS", "client.phase.remove=1*return(kill)")];
    f.begin_with("a", "echo", "b", FORWARD, &dies)
        .wait(Duration::from_secs(300));
    f.sh("a", "agent-client recover");
    assert_reached(&f, "a");

    // Still works if the container does not come back after all.
    f.serve_with(
        "a",
        &[("FAILPOINTS", "server.restore.before=1*return(kill)")],
    );
    let failed = f.migrate("b", "echo", "a");
    assert_eq!(failed.report["outcome"], "failed", "{:#}", failed.report);
    assert_reached(&f, "a");
    f.serve("a");
    assert_reached(&f, "a");
    f.migrate("b", "echo", "a").assert_moved();
    assert_eq!(f.sh("a", "agent-client forward list"), "");
    assert_reached(&f, "a");
    f.sh("a", "podman rm -ft0 echo");
    f.assert_as_before(&before);
}
