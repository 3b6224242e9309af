//! What `agent-server` tells Prometheus.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use tests::{Fixture, eventually};

const AT: &str = "127.0.0.1:9464";
const LIMIT: Duration = Duration::from_secs(60);

fn scrape(f: &Fixture) -> String {
    let ask = "exec 3<>/dev/tcp/127.0.0.1/9464
        printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3
        cat <&3";
    let answer = f.run("b", &["bash", "-ec", ask]);
    let (head, text) = answer
        .stdout
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer}"));
    assert!(
        head.contains("200 OK") && head.contains("openmetrics-text"),
        "{head}"
    );
    assert!(text.trim_end().ends_with("# EOF"), "{text}");
    text.to_owned()
}

/// The value of a series.
#[track_caller]
fn value(text: &str, series: &str) -> f64 {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(&format!("live_migration_{series} ")));
    let number = line.unwrap_or_else(|| panic!("no {series}:\n{text}"));
    number.parse().expect("a number")
}

/// The sum over all labels.
fn sum(text: &str, name: &str) -> f64 {
    let with_labels = format!("live_migration_{name}{{");
    let lines = text.lines().filter(|line| line.starts_with(&with_labels));
    let numbers = lines.filter_map(|line| line.rsplit(' ').next());
    numbers
        .map(|number| number.parse::<f64>().expect("a number"))
        .sum()
}

#[test]
fn a_server_tells_what_has_come() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::new("m-metrics", &["echo"]);
    let open = "AGENT_SERVER_METRICS=0.0.0.0:9464 agent-server 2>&1 || echo $?";
    let said = f.sh("b", open);
    assert!(
        said.contains("--metrics-token-file") && said.ends_with("\n1"),
        "{said}"
    );

    f.serve_with("b", &[("AGENT_SERVER_METRICS", AT)]);
    let before = scrape(&f);
    for series in [
        "migrations_total{outcome=\"committed\"}",
        "outage_seconds_count",
        "tunnels{state=\"up\"}",
        "flows",
        "sessions",
        "pagers",
    ] {
        assert_eq!(value(&before, series), 0.0, "{series}");
    }
    assert_eq!(value(&before, "peers"), 1.0);

    f.start("a", "echo", "-p 7000:7000 localhost/echo");
    let client = f.client("echo", &f.at("a", 7000), &[]);
    let migration = f.migrate("a", "echo", "b");
    let report = &migration.assert_moved().report;
    // The session ends, and with it what was left to do, soon after the client has.
    eventually(LIMIT, || match value(&scrape(&f), "sessions") {
        0.0 => Ok(()),
        open => Err(format!("{open} sessions")),
    });
    let text = scrape(&f);
    for (series, expected) in [
        ("migrations_total{outcome=\"committed\"}", 1.0),
        ("migrations_total{outcome=\"rolled_back\"}", 0.0),
        ("outage_seconds_count", 1.0),
        ("phase_seconds_count{phase=\"restore\"}", 1.0),
        ("tunnels{state=\"up\"}", 1.0),
        ("flows", 1.0),
        ("packets_total{fate=\"dropped\"}", 0.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series}:\n{text}");
    }
    let number = |name: &str| report[name].as_f64().expect("a number");
    // The source counts from before it asks until it has the answer.
    let outage_ms = value(&text, "outage_seconds_sum") * 1e3;
    let restore_ms = value(&text, "phase_seconds_sum{phase=\"restore\"}") * 1e3;
    assert!(restore_ms > 0.0 && restore_ms < outage_ms, "{text}");
    assert!(
        outage_ms <= number("freeze_ms") + 1.0,
        "{outage_ms}: {report:#}"
    );
    let received = sum(&text, "received_bytes_total");
    assert_eq!(received, number("sent_bytes"), "{text}");
    if report["packets"] == "held" {
        assert!(value(&text, "packets_total{fate=\"held\"}") > 0.0, "{text}");
    }
    client.finish_whole();
    every_name_is_told(&text);
}

/// The names in the files for Prometheus and Grafana are among those that the server has told.
fn every_name_is_told(text: &str) {
    for file in ["alerts.yaml", "grafana.json"] {
        let content = std::fs::read_to_string(dist(file)).expect("it is there");
        let names: BTreeSet<&str> = content
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("live_migration_"))
            .collect();
        assert!(!names.is_empty(), "{file} names nothing");
        for name in names {
            let told = |line: &str| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            };
            assert!(text.lines().any(told), "{file}: {name}:\n{text}");
        }
    }
}

#[test]
fn the_alerts_are_raised_when_they_should() {
    for arguments in [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts.test.yaml"],
    ] {
        let promtool = Command::new("promtool")
            .args(arguments)
            .current_dir(dist(""))
            .output();
        match promtool {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                println!("skipped: promtool is not installed (Debian's package prometheus)");
                return;
            }
            output => {
                let output = output.expect("promtool runs");
                assert!(output.status.success(), "{output:?}");
            }
        }
    }
}

fn dist(file: &str) -> String {
    format!("{}/../dist/{file}", env!("CARGO_MANIFEST_DIR"))
}
