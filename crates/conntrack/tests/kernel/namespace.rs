//! Network namespaces to test in. They vanish when nothing holds them any more; the machine's own
//! namespace is never touched.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsRawFd,
    panic,
    process::{self, Command, Stdio},
    thread,
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::geteuid,
};

/// A network namespace with its loopback interface up.
pub(crate) struct Namespace(File);

impl Namespace {
    /// A fresh namespace, or `None` without root: the test should return then.
    pub(crate) fn new() -> Option<Self> {
        if !geteuid().is_root() {
            // Not println!, which the test harness hides.
            let _ = writeln!(std::io::stderr(), "skipped: needs root");
            return None;
        }
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let namespace = Self(file.join().unwrap());
        namespace.ip("link set lo up");
        Some(namespace)
    }

    /// Runs `inside` on a new thread that has entered the namespace.
    pub(crate) fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                    inside()
                })
                .join()
        })
        .unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// Runs the `ip` program.
    pub(crate) fn ip(&self, arguments: &str) {
        let status = self.run(|| Command::new("ip").args(arguments.split(' ')).status());
        assert!(status.unwrap().success(), "ip {arguments}");
    }

    /// Loads rules.
    pub(crate) fn nft(&self, rules: &str) {
        self.run(|| {
            let mut nft = Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = nft.stdin.take().unwrap();
            stdin.write_all(rules.as_bytes()).unwrap();
            drop(stdin);
            assert!(nft.wait().unwrap().success(), "nft: {rules}");
        });
    }

    /// Sets a sysctl below `net`.
    pub(crate) fn sysctl(&self, path: &str, value: &str) {
        self.run(|| fs::write(format!("/proc/sys/net/{path}"), value).unwrap());
    }

    /// Connects the two with a veth pair, with these addresses at its ends.
    fn connect(&self, interface: &str, addresses: [&str; 2], other: &Self, theirs: [&str; 2]) {
        let place = format!("/proc/{}/fd/{}", process::id(), other.0.as_raw_fd());
        self.ip(&format!(
            "link add {interface} type veth peer name eth0 netns {place}"
        ));
        for (namespace, interface, addresses) in
            [(self, interface, addresses), (other, "eth0", theirs)]
        {
            namespace.ip(&format!("address add {} dev {interface}", addresses[0]));
            namespace.ip(&format!(
                "address add {} dev {interface} nodad",
                addresses[1]
            ));
            namespace.ip(&format!("link set {interface} up"));
        }
    }
}

/// A client and a server in namespaces of their own, and between them a router whose rules track
/// connections.
pub(crate) struct Routed {
    /// 10.1.0.2, fd01::2.
    pub(crate) client: Namespace,
    /// 10.1.0.1 and fd01::1 towards the client, 10.2.0.1 and fd02::1 towards the server.
    pub(crate) router: Namespace,
    /// 10.2.0.2, fd02::2.
    pub(crate) server: Namespace,
}

impl Routed {
    /// Builds the three, or returns `None` without root.
    pub(crate) fn new() -> Option<Self> {
        let (client, router, server) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        router.sysctl("ipv4/ip_forward", "1");
        router.sysctl("ipv6/conf/all/forwarding", "1");
        router.connect(
            "client",
            ["10.1.0.1/24", "fd01::1/64"],
            &client,
            ["10.1.0.2/24", "fd01::2/64"],
        );
        router.connect(
            "server",
            ["10.2.0.1/24", "fd02::1/64"],
            &server,
            ["10.2.0.2/24", "fd02::2/64"],
        );
        client.ip("route add default via 10.1.0.1");
        client.ip("route add default via fd01::1");
        server.ip("route add default via 10.2.0.1");
        server.ip("route add default via fd02::1");
        Some(Self {
            client,
            router,
            server,
        })
    }
}
