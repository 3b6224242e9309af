//! Two hosts whose disks have, after a power cut, what somebody has synced.

use std::thread;

use lab::Lab;
use tests::{Fixture, eventually};

/// The container.
pub(crate) const NAME: &str = "kept";
/// The hosts: it is to move from the first to the second.
pub(crate) const HOSTS: [&str; 2] = ["a", "b"];

/// The kernel of a virtual machine writes dirty pages when somebody syncs, and not before: what a power cut takes must not depend
/// on how fast a case is.
const LAZY: &str = "
echo 0 >/proc/sys/vm/dirty_writeback_centisecs
echo 360000 >/proc/sys/vm/dirty_expire_centisecs
";

/// Writes a file as its application would: through the root of process $1, at $2, with fsync of it and of its
/// directory.
const WRITE: &str = r#"
import os, sys
path = f"/proc/{sys.argv[1]}/root{sys.argv[2]}"
file = os.open(path, os.O_CREAT | os.O_WRONLY)
os.write(file, b"".join(f"{sys.argv[2]} {i:08}\n".encode() for i in range(20000)))
os.fsync(file)
directory = os.open(os.path.dirname(path), os.O_RDONLY)
os.fsync(directory)
"#;

/// Prints whether the file at $1 is what was written at $2, or "missing".
const COMPARE: &str = r#"
import sys
expected = b"".join(f"{sys.argv[2]} {i:08}\n".encode() for i in range(20000))
try:
    with open(sys.argv[1], "rb") as file:
        print("whole" if file.read() == expected else "broken")
except FileNotFoundError:
    print("missing")
"#;

pub(crate) struct World {
    pub(crate) f: Fixture,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = World {
            f: Fixture::fragile("m-power", &["counter"]),
        };
        for host in HOSTS {
            world.set_up(host);
            world.f.sh(host, "sync");
        }
        world
    }

    /// What has to be done after each boot.
    fn set_up(&self, host: &str) {
        // For hosts that share the machine's kernel it is not theirs to decide.
        if self.f.host(host).kind().is_machine() {
            self.f.sh(host, LAZY);
        }
    }

    /// Starts the container on the first host, with these options. It has a volume at /data.
    pub(crate) fn start(&self, options: &str) {
        let options = format!("{options} -p 9000:9000 -v kept:/data localhost/counter");
        self.f.start("a", NAME, &options);
        // The container itself is not what this is about.
        self.f.sh("a", "sync");
    }

    /// Has the container write a file and sync it.
    pub(crate) fn write(&self, path: &str) {
        let pid = format!("$(podman inspect -f '{{{{.State.Pid}}}}' {NAME})");
        self.f
            .sh("a", &format!("python3 -c '{WRITE}' {pid} {path}"));
    }

    /// What is on a host's disk of a file that the container has written. Podman is not asked: it may remove what
    /// it finds after a restart.
    pub(crate) fn look(&self, host: &str, path: &str) -> String {
        let storage = "/var/lib/containers/storage";
        let places = match path.strip_prefix("/data/") {
            Some(name) => format!("{storage}/volumes/kept/_data/{name}"),
            None => format!("{storage}/overlay/*/diff{path}"),
        };
        let script = format!(
            "seen=missing
             for place in {places}; do
                 seen=$(python3 -c '{COMPARE}' $place {path})
                 [ $seen = missing ] || break
             done
             echo $seen"
        );
        self.f.sh(host, &script)
    }

    /// Cuts the power of these hosts at once, and boots them again from the disks that they had.
    ///
    /// # Panics
    /// If what nobody had synced is still there, or what somebody had is not: then the cut shows nothing.
    pub(crate) fn cut_power(&mut self, hosts: &[&'static str]) {
        for host in hosts {
            self.f
                .sh(host, "echo on disk >/root/synced; sync /root/synced /root");
            self.f.sh(host, "echo in memory >/root/unsynced");
        }
        let kind = |host: &&'static str| (*host, self.f.host(host).kind());
        let kinds: Vec<_> = hosts.iter().map(kind).collect();
        thread::scope(|scope| {
            for host in hosts {
                scope.spawn(|| self.f.lab().power_off(host).expect("it can be killed"));
            }
        });
        let lab = Lab::up_as(self.f.lab().name(), &kinds).expect("they boot again");
        lab.keep();
        for host in hosts {
            self.set_up(host);
            let now = |name: &str| self.f.sh(host, &format!("cat /root/{name} 2>&1 || true"));
            let [synced, unsynced] = ["synced", "unsynced"].map(now);
            assert_eq!(synced, "on disk", "{host} has lost what was synced");
            assert!(!unsynced.contains("memory"), "{host} has lost nothing");
            self.f.sh(host, "rm -f /root/synced /root/unsynced; sync");
        }
    }

    /// The state of the container on a host; empty if it is not there.
    pub(crate) fn state(&self, host: &str) -> String {
        let script = format!("podman ps -a --filter name=^{NAME}$ --format '{{{{.State}}}}'");
        self.f.sh(host, &script)
    }

    /// Waits until there is no trace of the container on a host.
    pub(crate) fn assert_gone(&self, host: &str) {
        eventually(std::time::Duration::from_secs(60), || {
            let traces = self.f.sh(
                host,
                "podman ps -a --format '{{.Names}} {{.State}}'; podman volume ls -q
                 ls -A /var/lib/live-migration/work",
            );
            traces
                .is_empty()
                .then_some(())
                .ok_or(format!("on {host}: {traces}"))
        });
    }

    /// Removes the container from a host.
    pub(crate) fn remove(&self, host: &str) {
        let script = format!("podman rm -fit0 {NAME}; podman volume rm -f kept; sync");
        self.f.sh(host, &script);
    }
}
