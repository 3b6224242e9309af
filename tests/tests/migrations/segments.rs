//! Connections with larger segments than fit into a tunnel.

use std::time::Duration;

use tests::{Fixture, Job, eventually, pause};

/// Sets a large value over and over on one connection, until told to stop, and prints how often.
const SETTER: &str = "
import os, socket
value = b'x' * 200000
connection = socket.create_connection(('a', 6379))
connection.settimeout(30)
print(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG), flush=True)
count = 0
while not os.path.exists('/tmp/enough'):
    connection.sendall(b'*3\\r\\n$3\\r\\nset\\r\\n$1\\r\\nk\\r\\n$%d\\r\\n%s\\r\\n' % (len(value), value))
    answer = connection.recv(5)
    assert answer == b'+OK\\r\\n', answer
    count += 1
    with open('/tmp/count', 'w') as file: file.write(str(count))
";

#[test]
fn pass_behind_a_filter_that_drops_icmp() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-segments", &["redis"]);
    let before = f.look(&["a", "b"]);
    f.start("a", "redis", "-p 6379:6379 localhost/redis");
    f.sh(
        "c",
        "nft add table inet deaf
         nft add chain inet deaf in '{ type filter hook input priority 0; }'
         nft add rule inet deaf in icmp type destination-unreachable counter drop
         until redis-cli -h a ping 2>/dev/null | grep -q PONG; do sleep 0.05; done",
    );
    let setter = Job::start(f.host("c"), &["python3", "-c", SETTER]);
    let count = || -> u64 {
        let text = f.sh("c", "cat /tmp/count 2>/dev/null || true");
        text.parse().unwrap_or(0)
    };
    let more_than = |least: u64| {
        eventually(Duration::from_secs(30), || {
            let now = count();
            (now > least).then_some(()).ok_or(now.to_string())
        });
    };
    more_than(10);

    f.migrate("a", "redis", "b").assert_moved();
    let then = count();
    more_than(then + 50);
    pause(200);
    f.sh("c", "touch /tmp/enough");
    let ended = setter.wait(Duration::from_secs(40));
    assert!(ended.status.success(), "{ended}");
    let told = f.sh("c", "nft list chain inet deaf in");
    assert!(!told.contains("packets 0 "), "nobody was told: {told}");

    f.sh("b", "podman rm -ft0 redis");
    f.assert_as_before(&before);
}
