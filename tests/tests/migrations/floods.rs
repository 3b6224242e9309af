//! More datagrams than the tunnel can carry.

use std::time::Duration;

use tests::{Fixture, Job, eventually};

/// Sends as many as it can, and says when it begins.
const FLOOD: &str = "
import socket, sys
flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flood.connect((sys.argv[1], int(sys.argv[2])))
print('sends', flush=True)
while True:
    try:
        flood.send(b'0123456789abcdef')
    except OSError:
        pass
";

#[test]
fn a_flood_does_not_keep_the_container_frozen() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-flood", &["echo"]);
    f.start("a", "echo", "-p 7000:7000 -p 7000:7000/udp localhost/echo");
    let client = f.client("echo", &f.at("a", 7000), &["--connections", "3"]);
    f.host("c")
        .write("/tmp/flood.py", FLOOD.as_bytes())
        .expect("the program can be put there");
    let address = f.host("a").ipv4().to_string();
    let mut flood = Job::start(f.host("c"), &["python3", "/tmp/flood.py", &address, "7000"]);
    eventually(Duration::from_secs(60), || {
        let begun = flood.stdout().contains("sends");
        begun.then_some(()).ok_or_else(|| flood.stderr())
    });
    let migration = f.migrate("a", "echo", "b");
    assert!(flood.ended().is_none(), "{}", flood.stderr());
    drop(flood);
    migration.assert_moved();
    client.finish_whole();
}
