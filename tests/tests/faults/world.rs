//! Two hosts between which a container moves back and forth while things break.
//!
//! A second container has moved once, with a connection, and stays: it keeps the tunnel up, so that
//! the hosts can be compared with how they were without waiting for the tunnel to go away. And it
//! must never be affected by anything.

use std::collections::BTreeMap;
use std::time::Duration;

use tests::{Fixture, Load, eventually, pause};

/// The hosts that the container moves between.
pub(crate) const HOSTS: [&str; 2] = ["a", "b"];
/// The container.
pub(crate) const NAME: &str = "counter";
/// Its published port.
pub(crate) const PORT: u16 = 9000;

/// Time for a server's clean-up, a tunnel's timers and connections to be forgotten.
const TIDY: Duration = Duration::from_secs(150);

/// A separate disk for the agents, small enough to be filled.
const SMALL_DISK: &str = "
cp -a /var/lib/live-migration /tmp/state
mount -t tmpfs -o size=128m,mode=700 tmpfs /var/lib/live-migration
cp -a /tmp/state/. /var/lib/live-migration/
mkdir -p /var/lib/live-migration/work
";

/// A client retransmits at least every other second, however long it was not answered: otherwise it
/// would wait as long again after an outage. It gives up as late as by default: what counts is the
/// number of retransmissions.
const PERSISTENT: &str = "
echo 2000 >/proc/sys/net/ipv4/tcp_rto_max_ms
echo 200 >/proc/sys/net/ipv4/tcp_retries2
";

/// What the agents could leave behind, beyond what a snapshot shows.
const TRACES: &str = r#"
ls -A /var/lib/live-migration/work | sed 's/^/scratch space /'
ls -A /run/live-migration/held 2>/dev/null | sed 's/^/held /'
ls /run/live-migration/tunnels | grep json | sed 's/^/tunnel /'
echo "$(ls /run/netns | wc -l) network namespaces"
echo "$(grep -c /var/lib/containers /proc/mounts) mounts of containers"
ps -eo comm= | grep -E '^(podman|runc|criu|conmon|gate-conmon|netavark|skeleton-runt)' |
    sort | uniq -c || true
for freeze in $(find /sys/fs/cgroup -name cgroup.freeze); do
    [ "$(cat $freeze)" = 0 ] || echo "frozen $freeze"
done
for netns in /run/netns/*; do
    nsenter --net=$netns nft list tables | grep quarantine || true
done
"#;

/// A host's state, line by line, without what always differs.
type View = Vec<String>;

pub(crate) struct World {
    pub(crate) f: Fixture,
    /// Where the container is.
    pub(crate) at: &'static str,
    /// The state of both hosts when the container is on one of them.
    views: BTreeMap<&'static str, Vec<View>>,
    /// A connection that lasts as long as the world.
    client: Load,
    bystander: Load,
}

impl World {
    pub(crate) fn new(lab: &str) -> Self {
        let mut f = Fixture::fragile(lab, &["counter", "echo"]);
        f.sh("c", PERSISTENT);
        for host in HOSTS {
            f.stop_serving(host);
            f.sh(host, SMALL_DISK);
            f.serve(host);
        }
        f.start("a", "echo", "-p 7000:7000 localhost/echo");
        f.start("a", NAME, "-p 9000:9000 -v notes:/notes localhost/counter");
        let bystander = f.client("echo", &f.at("a", 7000), &[]);
        let client = f.client("count", &f.at("a", PORT), &[]);
        f.migrate("a", "echo", "b").assert_moved();
        let mut world = World {
            f,
            at: "a",
            views: BTreeMap::new(),
            client,
            bystander,
        };
        // A host lets through more for a container that has come than for one that was started there.
        world.move_on();
        for _ in HOSTS {
            world.move_on();
            world.remember();
        }
        world
    }

    /// The other host.
    pub(crate) fn other(&self) -> &'static str {
        if self.at == "a" { "b" } else { "a" }
    }

    /// Takes the hosts' present state as clean.
    fn remember(&mut self) {
        let mut last = self.views();
        eventually(TIDY, || {
            pause(700);
            let before = std::mem::replace(&mut last, self.views());
            let passing = last.iter().flatten().any(|line| line.contains("_WAIT"));
            (before == last && !passing)
                .then_some(())
                .ok_or_else(|| difference(&before, &last))
        });
        self.views.insert(self.at, last);
    }

    /// Waits until both hosts are clean. The connections must still be alive.
    pub(crate) fn assert_clean(&mut self) {
        self.client.assert_runs();
        self.bystander.assert_runs();
        let expected = &self.views[self.at];
        eventually(TIDY, || {
            let now = self.views();
            if now == *expected {
                return Ok(());
            }
            // Looking is expensive: every podman costs as much as a step of a migration.
            pause(700);
            Err(difference(expected, &now))
        });
    }

    fn views(&self) -> Vec<View> {
        std::thread::scope(|scope| {
            let views = HOSTS.map(|host| scope.spawn(move || view(&self.f, host)));
            views
                .map(|view| view.join().expect("a host can be looked at"))
                .into()
        })
    }

    /// Moves the container on, undisturbed.
    pub(crate) fn move_on(&mut self) {
        let to = self.other();
        self.f.migrate(self.at, NAME, to).assert_moved();
        self.at = to;
        self.client.assert_runs();
        self.bystander.assert_runs();
    }

    /// Replaces a connection that may have been broken.
    pub(crate) fn reconnect(&mut self) {
        let at = self.f.at(self.at, PORT);
        self.client = self.f.client("count", &at, &[]);
    }

    /// Finds out, once the hosts have come to rest, where it runs, and checks that it is not on the
    /// other host.
    pub(crate) fn locate(&mut self) {
        let here = |host| {
            let script = format!("podman ps -a --filter name=^{NAME}$ --format '{{{{.State}}}}'");
            self.f.sh(host, &script)
        };
        self.at = eventually(TIDY, || {
            let states = HOSTS.map(here);
            match states.each_ref().map(String::as_str) {
                ["running", ""] => Ok("a"),
                ["", "running"] => Ok("b"),
                _ => Err(format!("on a {:?}, on b {:?}", states[0], states[1])),
            }
        });
    }

    /// Starts it where it has ended: a CRIU that is killed may kill it as well.
    pub(crate) fn start_if_ended(&self) -> bool {
        let look = format!("podman ps -aq --filter name=^{NAME}$ --filter status=exited");
        let ended = HOSTS
            .into_iter()
            .find(|host| !self.f.sh(host, &look).is_empty());
        if let Some(host) = ended {
            self.f.sh(host, &format!("podman start {NAME}"));
        }
        ended.is_some()
    }

    /// Ends the connections and the containers. Everything that the clients saw must have been
    /// whole, and nothing may be left, including tunnels.
    pub(crate) fn end(mut self) {
        self.move_on();
        self.client.finish_whole();
        self.bystander.finish_whole();
        for host in HOSTS {
            self.f.sh(host, "podman rm -fat0");
        }
        eventually(TIDY, || {
            let left: String = HOSTS
                .iter()
                .map(|host| {
                    self.f
                        .sh(host, "ls /run/live-migration/tunnels | grep json || true")
                })
                .collect();
            left.is_empty().then_some(()).ok_or(left)
        });
        for host in HOSTS {
            let view = view(&self.f, host).join("\n");
            for trace in ["lmwg", "live_migration", "mark=", "scratch space"] {
                let lines = view.lines().filter(|line| line.contains(trace));
                let lines: Vec<_> = lines.filter(|line| !line.contains("mark=0")).collect();
                assert!(lines.is_empty(), "{trace} on {host}: {lines:#?}");
            }
        }
    }
}

fn view(f: &Fixture, host: &str) -> View {
    let snapshot = f.host(host).snapshot_with_podman().expect("a snapshot");
    let text = format!("{snapshot:?}{}", f.sh(host, TRACES));
    let mut view: View = text.lines().filter_map(constant).collect();
    view.sort();
    view
}

/// A line without what always differs; `None` if nothing is left of it.
fn constant(line: &str) -> Option<String> {
    let passing = ["fe80::", "ff00::", "dport=518", "dport=50051"];
    if passing.iter().any(|word| line.contains(word)) {
        return None;
    }
    let mut words = line.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word {
            // The other end's namespace: a random name or a number.
            "link-netns" | "link-netnsid" => {
                words.next();
            }
            word if is_mac(word) => kept.push("MAC".to_owned()),
            word => kept.push(any_veth(word)),
        }
    }
    Some(kept.join(" "))
}

/// A word without the number of a container's link: the first number that was free.
fn any_veth(word: &str) -> String {
    match word.split_once("veth") {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}veth{rest}")
        }
        None => word.to_owned(),
    }
}

fn is_mac(word: &str) -> bool {
    word.len() == 17
        && word
            .split(':')
            .all(|part| u8::from_str_radix(part, 16).is_ok())
}

fn difference(old: &[View], new: &[View]) -> String {
    let mut text = String::new();
    for ((host, old), new) in HOSTS.iter().zip(old).zip(new) {
        for (sign, here, there) in [("-", old, new), ("+", new, old)] {
            for line in here.iter().filter(|line| !there.contains(line)) {
                text += &format!("on {host}: {sign} {line}\n");
            }
        }
    }
    if text.is_empty() {
        "the same lines, in another number".into()
    } else {
        text
    }
}
