//! More datagrams than the tunnel can carry.

use tests::{Fixture, pause};

/// Sends as many as it can, for a minute at most.
const FLOOD: &str = "
import socket, sys, time
flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flood.connect((sys.argv[1], int(sys.argv[2])))
end = time.monotonic() + 60
while time.monotonic() < end:
    for _ in range(1000):
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
    f.sh(
        "c",
        "python3 /tmp/flood.py 198.51.100.1 7000 >/dev/null 2>&1 </dev/null & echo $! >/tmp/flood",
    );
    pause(500);
    let migration = f.migrate("a", "echo", "b");
    f.sh("c", "kill $(cat /tmp/flood) # it is still there");
    migration.assert_moved();
    client.finish_whole();
}
