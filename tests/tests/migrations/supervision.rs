//! What systemd is told of a server, and what it does when a server stands still.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::{Fixture, eventually};

/// How long something that is said may take to be heard.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn whoever_starts_it_is_told_what_it_does() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::new("m-notified", &["echo"]);
    let start = f.look(&["a", "b"]);
    f.start("a", "echo", "-p 7000:7000 localhost/echo");
    let path = f.host("b").root_path().expect("it has files here");
    let socket = UnixDatagram::bind(path.join("run/notify")).expect("a socket can be made");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    let environment = [
        ("NOTIFY_SOCKET", "/run/notify"),
        ("WATCHDOG_USEC", "2000000"),
    ];
    f.serve_with("b", &environment);

    // In this order, whatever else is said in between.
    let hear = |lines: &[&str]| {
        let mut heard = Vec::new();
        loop {
            let mut bytes = [0; 4096];
            let length = socket.recv(&mut bytes);
            let length = length.unwrap_or_else(|e| panic!("{e}: no {lines:?} in {heard:#?}"));
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            heard.push(text.trim_end().to_owned());
            if lines.iter().all(|line| text.lines().any(|l| l == *line)) {
                return heard;
            }
        }
    };
    let idle = "STATUS=listening on [::]:50051, no migration under way";
    let before = hear(&["READY=1", idle]);
    assert_eq!(before.len(), 2, "{before:?}");
    assert!(before[0].starts_with("STATUS=finishing"), "{before:?}");
    hear(&["WATCHDOG=1"]);

    // The migration stands still as long as it takes to be heard of.
    let migration = f.begin("a", "echo", "b", &[]);
    eventually(LIMIT, || {
        let records = "grep -l under_way /var/lib/live-migration/server/migrations/*";
        f.host("b").sh(records).map(drop).map_err(|e| e.to_string())
    });
    migration.signal(Signal::SIGSTOP);
    hear(&["STATUS=listening on [::]:50051, 1 migration under way"]);
    hear(&["WATCHDOG=1"]);
    migration.signal(Signal::SIGCONT);
    let output = migration.wait(LIMIT);
    assert!(output.status.success(), "{output}");
    hear(&[idle]);

    f.stop_serving("b");
    hear(&["STOPPING=1", "STATUS=stopping: no migration undone"]);
    f.sh("b", "rm /run/notify && podman rm -ft0 echo");
    f.serve("b");
    f.assert_as_before(&start);
}

#[test]
fn systemd_ends_a_server_that_stands_still() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::services("m-watchdog", &["echo"]);
    let show = |property: &str| {
        let ask = format!("systemctl show --value --property {property} agent-server");
        f.sh("b", &ask)
    };
    assert_eq!(show("Type"), "notify");
    let status = show("StatusText");
    assert_eq!(status, "listening on [::]:50051, no migration under way");
    // It is ready only when it listens.
    f.sh(
        "b",
        "systemctl restart agent-server && ss -Hltn sport = :50051 | grep -q .",
    );

    f.sh(
        "b",
        "mkdir -p /run/systemd/system/agent-server.service.d
         printf '[Service]\\nWatchdogSec=2\\n' >/run/systemd/system/agent-server.service.d/watchdog.conf
         systemctl daemon-reload && systemctl restart agent-server",
    );
    let first = show("MainPID");
    // As long as it moves, nothing happens to it.
    tests::pause(5000);
    assert_eq!(show("MainPID"), first);
    f.sh("b", &format!("kill -STOP {first}"));
    eventually(LIMIT, || {
        let (now, state) = (show("MainPID"), show("ActiveState"));
        let another = now != first && now != "0" && state == "active";
        another.then_some(()).ok_or(format!("{now}, {state}"))
    });
    assert_eq!(show("NRestarts"), "1");
    let log = f.sh("b", "journalctl --no-pager --unit agent-server");
    assert!(log.contains("Watchdog timeout"), "{log}");
    assert_eq!(show("StatusText"), status);
}
