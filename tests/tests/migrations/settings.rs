//! Files of settings stand for options.

use std::time::Duration;

use nix::sys::signal::Signal;
use tests::{Fixture, Job, eventually};

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn what_a_file_says_need_not_be_said() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::new("m-settings", &["echo"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "echo", "-p 7000:7000 localhost/echo");
    let write = |host: &str, program: &str, text: &str| {
        let path = format!("/etc/live-migration/{program}.toml");
        f.sh(host, "mkdir -p /etc/live-migration");
        f.host(host)
            .write(&path, text.as_bytes())
            .expect("it can be written");
    };

    write("a", "agent-client", "to = 'b'\nmax-freeze-ms = 60000\n");
    f.sh("a", "agent-client check echo");
    let shown = f.sh("a", "AGENT_CLIENT_MAX_FREEZE_MS=7 agent-client config show");
    for line in [
        "to = \"b\"             # /etc/live-migration/agent-client.toml:1",
        "max-freeze-ms = 7    # the environment variable AGENT_CLIENT_MAX_FREEZE_MS",
        "forward-new = false  # the default",
    ] {
        assert!(shown.lines().any(|l| l == line), "{line}: {shown}");
    }

    // Nothing happens with a file that is partly wrong.
    write("a", "agent-client", "to = 'b'\nmax-freeze-ms = 0\n");
    let said = f.sh("a", "agent-client migrate --yes echo 2>&1 || echo $?");
    assert_eq!(
        said,
        "agent-client: /etc/live-migration/agent-client.toml:2:17: invalid value '0' for \
         '--max-freeze-ms <MS>': 0 is not in 1..18446744073709551615\n2"
    );

    write("b", "agent-server", "listen = '[::]:50052'\n");
    f.stop_serving("b");
    let server = Job::start(f.host("b"), &["agent-server"]);
    eventually(LIMIT, || {
        let listens = f.sh("b", "ss -Hltn sport = :50052");
        (!listens.is_empty())
            .then_some(())
            .ok_or_else(|| server.stderr())
    });
    server.signal(Signal::SIGTERM);
    server.wait(LIMIT);

    for host in ["a", "b"] {
        f.sh(host, "rm -r /etc/live-migration");
    }
    f.sh("a", "podman rm -ft0 echo");
    f.serve("b");
    f.assert_as_before(&before);
}
