//! Whoever is not paired gets nowhere.

use lab::Output;
use tests::{Fixture, Setup};

fn pair(f: &Fixture, host: &str, token: &str) -> Output {
    f.run("a", &["agent-client", "pair", host, "--token", token])
}

fn assert_refused(output: &Output, words: &[&str]) {
    assert!(matches!(output.status.code(), Some(1 | 2 | 4)), "{output}");
    let said = output.stderr.to_lowercase();
    for word in words {
        assert!(said.contains(word), "does not say {word:?}: {output}");
    }
    println!("{}", output.stderr.trim());
}

#[test]
fn tokens_and_peers() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::with(
        "m-trust",
        Setup {
            hosts: &["a", "b", "c"],
            servers: &["b", "c"],
            pairs: &[],
            images: &[("a", &["counter"]), ("b", &["counter"])],
            services: false,
        },
    );
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let client = f.client("count", &f.at("a", 9000), &[]);
    let before = f.look(&["a", "b"]);
    let refused = |f: &Fixture, words: &[&str]| {
        let migration = f.migrate("a", "counter", "b");
        assert!(matches!(migration.code(), 1 | 4), "{}", migration.output);
        migration.assert_says(words);
    };

    refused(&f, &["pair"]);

    // Tokens that are invalid, for another host, expired, used.
    assert_refused(&pair(&f, "b", "nonsense"), &["invitation"]);
    let elsewhere = f.invite("c");
    assert_refused(&pair(&f, "b", &elsewhere), &["key of b", "expected"]);
    let short = f.sh("b", "agent-server invite --ttl-s 1; sleep 2");
    assert_refused(&pair(&f, "b", &short), &["expired"]);
    let good = f.invite("b");
    let output = pair(&f, "b", &good);
    assert!(output.status.success(), "{output}");
    let again = f.run("c", &["agent-client", "pair", "b", "--token", &good]);
    assert_refused(&again, &["used"]);
    // A source that has forgotten its destination may pair again.
    f.sh("a", "agent-client peers remove b");
    f.pair("a", "b");

    // A secret that is nearly right.
    let token = f.invite("b");
    let forged = forge(&token);
    assert_ne!(forged, token);
    let output = pair(&f, "b", &forged);
    assert_ne!(output.status.code(), Some(0), "{output}");

    let peers = f.sh("b", "agent-server peers list");
    assert!(peers.contains('a'), "{peers}");
    assert!(f.sh("a", "agent-client peers list").contains('b'));

    // Forgotten by the destination, then by the source as well.
    f.sh("b", "agent-server peers remove a");
    refused(&f, &["pair"]);
    f.sh("a", "agent-client peers remove b");
    refused(&f, &["pair"]);
    f.assert_as_before(&before);

    // None of these secrets is in a log.
    let log = f.server_log("b");
    for token in [&good, &token, &short] {
        assert!(!log.contains(token.as_str()), "{log}");
    }

    f.pair("a", "b");
    f.assert_serves("b");
    f.migrate("a", "counter", "b").assert_moved();
    client.finish_whole();
}

/// Changes one character in the middle of the second half.
fn forge(token: &str) -> String {
    let at = token.len() * 3 / 4;
    let other = if &token[at..=at] == "b" { "c" } else { "b" };
    format!("{}{other}{}", &token[..at], &token[at + 1..])
}

#[test]
fn another_key_than_the_pinned_one() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::new("m-new-key", &["counter"]);
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let client = f.client("count", &f.at("a", 9000), &[]);
    f.stop_serving("b");
    f.sh("b", "mv /var/lib/live-migration/server /tmp/");
    f.serve("b");
    let migration = f.migrate("a", "counter", "b");
    assert!(matches!(migration.code(), 1 | 4), "{}", migration.output);
    migration.assert_says(&["key"]);

    f.stop_serving("b");
    f.sh(
        "b",
        "rm -r /var/lib/live-migration/server; mv /tmp/server /var/lib/live-migration/",
    );
    f.serve("b");
    f.migrate("a", "counter", "b").assert_moved();
    client.finish_whole();
}

/// A name with an IPv6 address that a firewall blocks.
#[test]
fn a_name_with_a_dead_address() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-dead-address", &["counter"]);
    let (ipv6, ipv4) = (f.host("b").ipv6(), f.host("b").ipv4());
    // In the order in which the resolver returns them.
    f.sh(
        "a",
        &format!("printf '%s two\\n%s two\\n' {ipv6} {ipv4} >> /etc/hosts; getent ahosts two"),
    );
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let client = f.client("count", &f.at("a", 9000), &[]);
    f.sh("b", "ip6tables -A INPUT -p tcp --dport 50051 -j DROP");

    let output = pair(&f, "two", &f.invite("b"));
    assert!(output.status.success(), "{output}");
    let check = f.run("a", &["agent-client", "check", "counter", "--to", "two"]);
    assert!(check.status.success(), "{check}");
    // And by the other address, on the same socket.
    f.sh(
        "b",
        "ip6tables -F INPUT; iptables -A INPUT -p tcp --dport 50051 -j DROP",
    );
    f.migrate("a", "counter", "two").assert_moved();
    let log = f.server_log("b");
    assert!(!log.contains("::ffff:"), "{log}");
    client.finish_whole();
}
