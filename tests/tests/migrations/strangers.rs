//! Bytes on the agent's port that no agent would send.

use std::time::Duration;

use tests::{Fixture, Job, pause};

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

/// A frame: its length, then its bytes.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short");
    [&length.to_be_bytes()[..], bytes].concat()
}

#[test]
fn garbage_from_a_paired_host() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::new("m-frames", &["counter"]);
    let before = f.look(&["a", "b"]);
    // A certificate is only a wrapper for the key, which is what counts.
    f.sh(
        "a",
        "openssl req -x509 -new -key /var/lib/live-migration/client/host.key \
             -subj /CN=a -days 2 -out /tmp/a.crt 2>&1",
    );
    let connect = "timeout 5 openssl s_client -quiet -tls1_3 -connect b:50051 \
        -cert /tmp/a.crt -key /var/lib/live-migration/client/host.key";
    let hello =
        br#"{"request":"hello","versions":{"oldest":1,"newest":1},"software":"0","host":"a"}"#;
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
        let argv = ["sh", "-c", connect];
        let output = Job::with_input(f.host("a"), &argv, &input).wait(Duration::from_secs(10));
        // Otherwise our client sends its input too early to hear that its certificate is refused.
        assert!(!output.stderr.contains("alert"), "{output}");
        answered += u32::from(!output.stdout.is_empty());
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
