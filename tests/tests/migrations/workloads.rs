//! Each workload moves once, watched by a client that was connected before.

use std::time::Duration;

use serde_json::Value;
use tests::{Fixture, Job, eventually, pause};

#[test]
fn counter_with_all_that_defines_it() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-counter", &["counter"]);
    let before = f.look(&["a", "b", "c"]);
    f.start(
        "a",
        "counter",
        "-p 9000:9000 -e COLOUR=blue --label team=x --restart on-failure:3 -v notes:/notes \
         --hostname tally localhost/counter",
    );
    let defined = f.definition("a", "counter");
    let client = f.client("count", &f.at("a", 9000), &[]);
    pause(300);

    f.migrate("a", "counter", "b").assert_moved();
    pause(1000);
    let sockets = f.in_network_of("b", "counter", "ss -OHtin state established");
    assert!(
        sockets.contains(" mss:1") && !sockets.contains(" mss:5"),
        "restored connections send segments of the usual size: {sockets}"
    );
    let other = f.client("count", &f.at("b", 9000), &[]);
    pause(300);
    let other = other.finish_whole();
    for (host, agent) in [("a", "agent-client"), ("b", "agent-server")] {
        let kept = f.sh(host, &format!("{agent} cleanup"));
        assert!(kept.contains("carries a connection"), "{kept}");
    }
    let seen = client.finish_whole();
    assert_eq!(seen["local_port"], seen["local_port_at_end"]);
    assert_eq!(other["server"], seen["server"], "the same process");
    let number = |report: &Value, field| report[field].as_u64().expect("a number");
    assert!(number(&other, "first") > number(&seen, "first"));

    assert!(f.containers("a").is_empty(), "{:?}", f.containers("a"));
    assert_eq!(f.definition("b", "counter"), defined);
    assert_eq!(f.state("b", "counter"), "running");
    let said = f.sh("b", "podman logs counter");
    assert!(said.contains(&format!("count={} ", number(&seen, "last"))));
    f.sh("b", "podman exec counter /counter --help");

    f.sh("b", "podman stop -t 5 counter && podman start counter");
    let afresh = f.client("count", &f.at("b", 9000), &[]);
    pause(200);
    let afresh = afresh.finish_whole();
    assert_eq!(afresh["first"], 1, "a new process: {afresh}");
    assert_ne!(afresh["server"], seen["server"]);

    f.sh("b", "podman rm -ft0 counter && podman volume rm notes");
    for (host, agent) in [("a", "agent-client"), ("b", "agent-server")] {
        eventually(Duration::from_secs(30), || {
            let kept = f.sh(host, &format!("{agent} cleanup"));
            let gone = kept.contains("there are no tunnels");
            gone.then_some(()).ok_or(kept)
        });
    }
    f.assert_as_before(&before);
}

#[test]
fn files_in_the_root_and_in_a_volume() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-files", &["counter-file", "counter-open-file"]);
    let before = f.look(&["a", "b"]);
    let cases = [
        ("file-root", 9000, "localhost/counter-file", ""),
        (
            "file-volume",
            9001,
            "localhost/counter-file",
            "-v numbers:/data",
        ),
        ("open-root", 9002, "localhost/counter-open-file", ""),
        (
            "open-volume",
            9003,
            "localhost/counter-open-file",
            "-v more:/data",
        ),
    ];
    for (name, port, image, volume) in cases {
        f.start("a", name, &format!("-p {port}:9000 {volume} {image}"));
        let client = f.client("count", &f.at("a", port), &[]);
        pause(300);
        f.migrate("a", name, "b").assert_moved();
        pause(500);
        let seen = client.finish_whole();

        // Every number once, and in order.
        let file = match volume.split([' ', ':']).nth(1) {
            Some(volume) => {
                format!("cat $(podman volume inspect -f '{{{{.Mountpoint}}}}' {volume})/count")
            }
            None => format!("podman export {name} | tar xO data/count"),
        };
        f.sh(
            "b",
            &format!(
                "{file} >/tmp/is && seq -f %020.0f {} | cmp - /tmp/is",
                seen["last"]
            ),
        );
        f.sh("b", &format!("podman rm -fvt0 {name}"));
    }
    let volumes = f.sh("b", "podman volume ls -q | sort | xargs");
    assert_eq!(volumes, "more numbers");
    f.sh("b", "podman volume rm more numbers");
    f.assert_as_before(&before);
}

#[test]
fn echo_with_fifty_connections_and_datagrams() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-echo", &["echo"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "echo", "-p 7000:7000 -p 7000:7000/udp localhost/echo");
    let many = ["--connections", "50", "--interval-ms", "20"];
    let streams = f.client("echo", &f.at("a", 7000), &many);
    let datagrams = f.client("echo", &f.at("a", 7000), &["--udp", "--connections", "4"]);
    pause(500);

    let migration = f.migrate("a", "echo", "b");
    migration.assert_moved();
    let flows = &migration.report["flows"];
    assert!(flows["tcp"].as_u64() >= Some(50), "{flows}");
    assert!(flows["udp"].as_u64() >= Some(4), "{flows}");
    pause(1500);
    let streams = streams.finish_whole();
    let datagrams = datagrams.finish_whole();
    assert_eq!(streams["servers"], datagrams["servers"]);
    println!(
        "longest stall {} ms, datagrams lost {} of {}",
        streams["stall_ms"], datagrams["lost"], datagrams["sent"]
    );

    f.sh("b", "podman rm -ft0 echo");
    f.assert_as_before(&before);
}

#[test]
fn dial_out_keeps_its_connection() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-dial-out", &["dial-out"]);
    let before = f.look(&["a", "b"]);
    let server = f.outside_server(7000);
    let target = f.at("c", 7000);
    f.start("a", "dial-out", &format!("localhost/dial-out {target}"));
    f.assert_talks("a", "dial-out");

    f.migrate("a", "dial-out", "b").assert_moved();
    f.assert_talks("b", "dial-out");
    let seen = server.finish();
    // The container ends its connection only when it is stopped, so the server is asked first.
    assert_eq!(seen["ok"], true, "{seen:#}");
    assert_eq!(seen["connections"].as_array().map(Vec::len), Some(1));

    f.sh("b", "podman rm -ft0 dial-out");
    f.assert_as_before(&before);
}

#[test]
fn everything_at_once() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-everything", &["everything"]);
    let before = f.look(&["a", "b"]);
    let server = f.outside_server(7000);
    f.start(
        "a",
        "everything",
        &format!(
            "-p 7000:7000 -p 7000:7000/udp -p 7001:7001 localhost/everything --connect {}",
            f.at("c", 7000)
        ),
    );
    let streams = f.client("echo", &f.at("a", 7000), &["--connections", "5"]);
    let datagrams = f.client("echo", &f.at("a", 7000), &["--udp"]);
    moves_whole(&f);
    streams.finish_whole();
    datagrams.finish_whole();
    let seen = server.finish();
    assert_eq!(seen["ok"], true, "{seen:#}");

    f.sh("b", "podman rm -ft0 everything");
    f.assert_as_before(&before);
}

/// Moves `everything` from `a` to `b`, and asks it at both whether it is whole.
fn moves_whole(f: &Fixture) {
    let status = |host: &str| -> Value {
        let text = f.sh("c", &format!("timeout 5 nc -d {host} 7001"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"))
    };
    pause(500);
    let there = status("a");
    assert_eq!(there["ok"], true, "{there:#}");

    f.migrate("a", "everything", "b").assert_moved();
    pause(500);
    let here = status("b");
    assert_eq!(here["ok"], true, "{here:#}");
    assert_eq!(here["server"], there["server"], "the same process");
}

/// Podman mounts the root file system of one with `--rm` so that nothing in it is ever synced.
#[test]
fn a_mapped_file_in_a_container_that_goes_when_it_ends() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-mapped", &["everything"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "everything", "--rm -p 7001:7001 localhost/everything");
    moves_whole(&f);

    f.sh("b", "podman stop -t 1 everything");
    assert!(f.containers("b").is_empty(), "{:?}", f.containers("b"));
    f.assert_as_before(&before);
}

#[test]
fn redis_under_load() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-redis", &["redis"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "redis", "-p 6379:6379 localhost/redis");
    let fill = "until redis-cli -h a ping 2>/dev/null | grep -q PONG; do sleep 0.05; done
        redis-cli -h a set proof 4711
        redis-benchmark -h a -q -c 10 -n 20000 -r 10000 -d 100 -t set";
    f.sh("c", fill);
    let keys: u64 = f
        .sh("c", "redis-cli -h a dbsize")
        .parse()
        .expect("a number");
    assert!(keys > 5000, "{keys}");

    // redis-cli would silently reconnect: the client's id shows it.
    let count = "(echo client id
        until [ -e /tmp/enough ]; do echo incr n; sleep 0.01; done
        echo client id) | redis-cli -h a";
    let counting = Job::start(f.host("c"), &["bash", "-c", count]);
    let benchmark = "redis-benchmark -h a -q -c 20 -n 1000000000 -r 10000 -d 100 -t set,get";
    let mut loading = Job::start(f.host("c"), &["bash", "-c", &format!("exec {benchmark}")]);
    eventually(Duration::from_secs(10), || {
        let open = f.sh("c", "ss -Htn state established dst a | wc -l");
        (open.parse() == Ok(21)).then_some(()).ok_or(open)
    });
    pause(500);

    f.migrate("a", "redis", "b").assert_moved();
    pause(1000);
    if let Some(status) = loading.ended() {
        panic!("{status}: {}{}", loading.stdout(), loading.stderr());
    }
    let calls = "redis-cli -h b info stats | sed -n s/^total_commands_processed://p";
    let total = || -> u64 { f.sh("c", calls).trim().parse().expect("a number") };
    let some = total();
    pause(500);
    assert!(total() > some + 50, "the benchmark goes on");
    let open = f.sh("c", "ss -Htn state established dst a | wc -l");
    assert_eq!(open, "21", "the same connections");
    drop(loading);

    f.sh("c", "touch /tmp/enough");
    let counted = counting.wait(Duration::from_secs(20));
    assert!(counted.status.success(), "{counted}");
    let lines: Vec<&str> = counted.stdout.lines().collect();
    let [id, numbers @ .., id_at_end] = lines.as_slice() else {
        panic!("{counted}");
    };
    assert_eq!(id, id_at_end, "the same connection");
    for (expected, number) in (1..).zip(numbers) {
        assert_eq!(number.parse(), Ok(expected), "one after the other");
    }
    assert!(numbers.len() > 50, "{}", numbers.len());
    assert_eq!(f.sh("c", "redis-cli -h b get proof"), "4711");
    let left: u64 = f
        .sh("c", "redis-cli -h b dbsize")
        .parse()
        .expect("a number");
    assert!(left >= keys, "{left} of {keys}");

    f.sh("b", "podman rm -ft0 redis");
    f.assert_as_before(&before);
}

/// Its memory goes ahead while it is written to: each value must arrive whole, the old ones and the new ones.
#[test]
fn redis_with_much_memory_that_changes() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-redis-much", &["redis"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "redis", "-p 6379:6379 localhost/redis");
    // Each value says of which key it is, and of which round of changes.
    let fill = "until redis-cli -h a ping 2>/dev/null | grep -q PONG; do sleep 0.05; done
        head -c 120000000 /dev/urandom | base64 --wrap 1000 |
        awk '{ print \"SET key:\" NR, \"0:\" NR \":\" $0 }' | redis-cli -h a --pipe";
    f.sh("c", fill);
    let keys: u64 = f
        .sh("c", "redis-cli -h a dbsize")
        .parse()
        .expect("a number");
    assert!(keys > 100_000, "{keys}");
    let digest = "local sum = ''
        for n = 1, tonumber(ARGV[1]) do
            local value = redis.call('get', 'key:' .. n)
            local key = string.match(value, '^%d+:(%d+):')
            if tonumber(key) ~= n then return 'key ' .. n .. ' has ' .. value end
            if string.match(value, '^0:') then sum = redis.sha1hex(sum .. value) end
        end
        return sum";
    // Only the first keys are written to meanwhile; the others must stay what they are.
    let change = "i=0; until [ -e /tmp/enough ]; do i=$((i + 1))
            for n in $(seq 1 400); do echo SET key:$n $i:$n:$(printf %0950d $i); done
            echo GET key:7
        done | redis-cli -h a";
    let others = format!(
        "redis-cli -h HOST eval \"{}\" 0 {keys}",
        digest.replace("n = 1,", "n = 401,")
    );
    let sum = f.sh("c", &others.replace("HOST", "a"));
    let changing = Job::start(f.host("c"), &["bash", "-c", change]);
    pause(500);

    let migration = f.migrate("a", "redis", "b");
    migration.assert_moved();
    let memory = &migration.report["memory"];
    println!("{memory}");
    assert!(memory["rounds"].as_u64() >= Some(2), "{memory}");
    assert!(memory["ahead_bytes"].as_u64() > Some(100 << 20), "{memory}");
    assert!(memory["outage_bytes"].as_u64() < Some(64 << 20), "{memory}");
    pause(1000);
    f.sh("c", "touch /tmp/enough");
    let changed = changing.wait(Duration::from_secs(30));
    assert!(changed.status.success(), "{changed}");
    // The changes came one after the other, also across the move.
    let rounds = changed.stdout.lines().filter(|line| line.contains(":7:"));
    for (expected, value) in (1..).zip(rounds) {
        assert!(value.contains(&format!("{expected}:7:")), "{value}");
    }
    assert_eq!(f.sh("c", &others.replace("HOST", "b")), sum);

    f.sh("b", "podman rm -ft0 redis");
    f.assert_as_before(&before);
}
