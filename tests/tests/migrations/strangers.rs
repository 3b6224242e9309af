//! Bytes on the agent's port that no agent would send.

use std::time::Duration;

use common::protocol::version::Versions;
use tests::{Fixture, Job, eventually, pause};

/// Sends these bytes from `c` and waits a little for an answer.
fn send(f: &Fixture, bytes: &[u8]) {
    let argv = ["timeout", "5", "nc", "-N", "-w", "2", "b", "50051"];
    // Whether and how to close the connection is up to the server.
    Job::with_input(f.host("c"), &argv, bytes).wait(Duration::from_secs(10));
}

#[test]
fn garbage_before_the_handshake() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::new("m-garbage", &["counter"]);
    let before = f.look(&["a", "b"]);
    // The start of a TLS record that announces more than ever comes, and the same but too long to
    // be one.
    let cut_short = [&[0x16, 3, 1, 2, 0, 1, 0][..], &[0; 40]].concat();
    let too_long = [&[0x16, 3, 1, 0xff, 0xff][..], &[1; 70_000]].concat();
    let inputs: [&[u8]; 6] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
        &[0; 100_000],
        &[0xff; 100_000],
        &cut_short,
        &too_long,
    ];
    for input in inputs {
        send(&f, input);
        f.assert_serves("b");
    }
    // Many connections that say nothing keep nobody else out.
    let silent: Vec<Job> = (0..50)
        .map(|_| Job::start(f.host("c"), &["timeout", "30", "nc", "-d", "b", "50051"]))
        .collect();
    pause(500);
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let client = f.client("count", &f.at("a", 9000), &[]);
    f.migrate("a", "counter", "b").assert_moved();
    pause(300);
    client.finish_whole();
    drop(silent);
    f.sh("c", "pkill -x nc || true");
    f.sh("b", "podman rm -ft0 counter");
    f.assert_as_before(&before);
}

/// Opens this many connections to a server from these addresses in turn, and says nothing on any of them.
/// Those that the server ends are replaced by new ones. Prints how many it has opened.
const PRESS: &str = "
import select, socket, sys
server, port, most, *sources = sys.argv[1:]
ends, silent, opened = select.epoll(), {}, 0
while True:
    while len(silent) < int(most):
        new = socket.socket()
        new.settimeout(20)
        new.bind((sources[opened % len(sources)], 0))
        try:
            new.connect((server, int(port)))
        except TimeoutError:
            continue
        opened += 1
        silent[new.fileno()] = new
        ends.register(new, select.EPOLLIN | select.EPOLLRDHUP)
        if opened % 500 == 0:
            print(opened, flush=True)
    for which, _ in ends.poll():
        ends.unregister(which)
        silent.pop(which).close()
";

/// How many connections say nothing.
const SILENT: usize = 10_000;

/// From how many more addresses than one, so that limits for an address do not help.
const ADDRESSES: u8 = 100;

#[test]
fn ten_thousand_that_say_nothing_hold_up_no_migration() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-silent", &["echo"]);
    f.start("a", "echo", "-p 7000:7000 localhost/echo");
    let client = f.client("echo", &f.at("a", 7000), &["--connections", "5"]);
    let own = f.host("c").ipv4();
    let device = f.sh("c", &format!("ip -o addr show to {own} | cut -d' ' -f2"));
    let [first, second, third, _] = own.octets();
    let more = (100..100 + ADDRESSES).map(|last| format!("{first}.{second}.{third}.{last}"));
    let sources: Vec<String> = more.collect();
    for address in &sources {
        f.sh("c", &format!("ip addr add {address}/24 dev {device}"));
    }
    let (server, most) = (f.host("b").ipv4().to_string(), SILENT.to_string());
    // More descriptors than a process usually has.
    let all = "ulimit -n $(ulimit -Hn); exec timeout 300 python3 -c \"$@\"";
    let mut press = vec!["sh", "-c", all, "sh", PRESS, &server, "50051", &most];
    press.extend(sources.iter().map(String::as_str));
    let press = Job::start(f.host("c"), &press);
    let opened = || -> usize {
        let said = press.stdout();
        said.lines()
            .last()
            .map_or(0, |count| count.parse().expect("a number"))
    };
    eventually(Duration::from_secs(120), || match opened() {
        enough if enough >= SILENT => Ok(()),
        few => Err(format!("{few} are open\n{}", press.stderr())),
    });
    let before = opened();
    f.migrate("a", "echo", "b").assert_moved();
    let meanwhile = opened() - before;
    assert!(meanwhile > 0, "{}", press.stderr());
    println!("{before} connections, and {meanwhile} more during the migration");
    drop(press);
    pause(300);
    client.finish_whole();
}

/// A frame: its length, then its bytes.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// Says this to the server on `b` as the paired host `a`, and returns what it answers.
fn say(f: &Fixture, input: &[u8]) -> lab::Output {
    let connect = "timeout 5 openssl s_client -quiet -tls1_3 -connect b:50051 \
        -cert /tmp/a.crt -key /var/lib/live-migration/client/host.key";
    let output = Job::with_input(f.host("a"), &["sh", "-c", connect], input);
    let output = output.wait(Duration::from_secs(10));
    // Otherwise our client sends its input too early to hear that its certificate is refused.
    assert!(!output.stderr.contains("alert"), "{output}");
    output
}

/// A certificate is only a wrapper for the key, which is what counts.
fn certify(f: &Fixture) {
    f.sh(
        "a",
        "openssl req -x509 -new -key /var/lib/live-migration/client/host.key \
             -subj /CN=a -days 2 -out /tmp/a.crt 2>&1",
    );
}

#[test]
fn a_host_without_a_container_introduces_nobody() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::new("m-introduce", &["counter"]);
    let before = f.look(&["b"]);
    certify(&f);
    let hello = serde_json::json!({"request": "hello", "versions": Versions::OURS,
        "software": "0", "host": "a"});
    let introduce = serde_json::json!({"request": "introduce", "address": f.host("c").ipv4(),
        "offer": {"public_key": "c4e5bHq4tO3n3FQzBhWJv0S4lXbXk2mQyq0gq7m1d2U=", "port": 51_821,
            "prefixes": [], "ipv6": true, "tunnels": []}});
    let input = [hello, introduce].map(|message| frame(message.to_string().as_bytes()));
    let said = say(&f, &input.concat());
    assert!(said.stdout.contains("welcome"), "{said}");
    assert!(
        said.stdout
            .contains("no container came from the host that asks"),
        "{said}"
    );
    f.assert_serves("b");
    f.assert_as_before(&before);
}

#[test]
fn garbage_from_a_paired_host() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::new("m-frames", &["counter"]);
    let before = f.look(&["a", "b"]);
    certify(&f);
    let hello = serde_json::json!({"request": "hello", "versions": Versions::OURS,
        "software": "0", "host": "a"});
    let hello = hello.to_string();
    let hello = hello.as_bytes();
    let inputs = [
        frame(b"no json"),
        frame(b"{}"),
        frame(br#"{"request":"commit"}"#),
        frame(br#"{"request":"no_such_thing"}"#),
        frame(b""),
        // Announces 4 GiB; then sends more than is allowed; then less than announced.
        [&[0xff; 4][..], &[b' '; 1000]].concat(),
        frame(&vec![b' '; 2 << 20]),
        frame(hello)[..20].to_vec(),
        [frame(hello), frame(br#"{"request":"commit"}"#)].concat(),
        [frame(hello), frame(br#"{"request":"stage"}"#)].concat(),
        [frame(hello), frame(&[b'['; 100_000])].concat(),
    ];
    let mut answered = 0;
    for input in inputs {
        answered += u32::from(!say(&f, &input).stdout.is_empty());
        f.assert_serves("b");
    }
    assert!(
        answered > 3,
        "only {answered} were answered: was it heard at all?"
    );
    f.assert_as_before(&before);

    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    f.migrate("a", "counter", "b").assert_moved();
}
