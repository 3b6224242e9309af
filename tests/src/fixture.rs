//! A lab in which containers can move.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use lab::{Distribution, Host, Kind, Lab, Output, Snapshot};
use serde_json::{Value, json};

use crate::{Errors, Job, Load, Migration, artifacts, eventually, kind, limits, load, pause, unit};

/// For commands that answer at once, and for what comes soon: only how long something that is wrong is waited for.
const SHORT: Duration = Duration::from_secs(180);

/// For an image of a gigabyte.
const LOAD: Duration = Duration::from_secs(300);

/// After its last flow a tunnel stays for a while, for the next migration. Shorter than the two minutes after which the
/// kernel forgets by itself what somebody has left there.
const TIDY: Duration = Duration::from_secs(100);

/// How long ended connections are remembered: as short as the kernel allows, so that a host soon looks
/// as before. Nothing that a live connection needs is shortened, not even one that is being closed: that
/// has to outlast any stall. Also, new addresses are not tentative at first.
const CONNTRACK: &str = "
cd /proc/sys/net/netfilter
for state in time_wait close; do
    echo 1 >nf_conntrack_tcp_timeout_$state
done
for state in close_wait fin_wait last_ack; do
    echo 20 >nf_conntrack_tcp_timeout_$state
done
echo 3 >nf_conntrack_tcp_timeout_syn_sent
echo 40 >nf_conntrack_tcp_timeout_max_retrans
echo 40 >nf_conntrack_tcp_timeout_unacknowledged
echo 5 >nf_conntrack_udp_timeout
echo 5 >nf_conntrack_udp_timeout_stream
echo 1 >nf_conntrack_icmp_timeout
echo 1 >nf_conntrack_generic_timeout
cd /proc/sys/net/ipv6/conf
for which in all default; do
    echo 0 >$which/accept_dad
    echo 0 >$which/router_solicitations
done
";

/// In an emulated processor a container is frozen for so long that flows would time out meanwhile.
const SLOW_CONNTRACK: &str = "
cd /proc/sys/net/netfilter
echo 120 >nf_conntrack_tcp_timeout_max_retrans
echo 120 >nf_conntrack_tcp_timeout_unacknowledged
echo 60 >nf_conntrack_udp_timeout
echo 60 >nf_conntrack_udp_timeout_stream
";

/// Runs a command as if it was typed after a login: PAM registers a session with systemd, which sets
/// XDG_RUNTIME_DIR, for example.
pub const LOGIN: [&str; 7] = [
    "su",
    "--login",
    "--command",
    "exec \"$@\"",
    "--",
    "root",
    "sh",
];

/// States that soon change into others.
const PASSING: [&str; 6] = [
    " TIME_WAIT ",
    " CLOSE ",
    " CLOSE_WAIT ",
    " LAST_ACK ",
    " FIN_WAIT ",
    " tentative",
];

/// What a [`Fixture`] starts with.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// Names of the hosts.
    pub hosts: &'a [&'a str],
    /// Those that run `agent-server`.
    pub servers: &'a [&'a str],
    /// The pairs of source and destination.
    pub pairs: &'a [(&'a str, &'a str)],
    /// Images to have on each host.
    pub images: &'a [(&'a str, &'a [&'a str])],
    /// Whether hosts that run containers have systemd, and Podman as Debian installs it.
    pub services: bool,
}

impl Setup<'_> {
    fn kind(&self, host: &str) -> Kind {
        let runs_containers = self.images.iter().any(|(name, _)| *name == host);
        match runs_containers || self.servers.contains(&host) {
            true if self.services => Kind::Services,
            true => kind(),
            false => Kind::Namespaces,
        }
    }
}

/// A lab with both agents on every host. If a test fails, it prints what the servers said.
#[derive(Debug)]
pub struct Fixture {
    lab: Lab,
    servers: BTreeMap<String, Job>,
    /// Where servers that are started from now on let peers bind and put things.
    allowed: Vec<String>,
    _lab_lock: File,
}

impl Fixture {
    /// Hosts `a`, `b` and `c`, where `a` can send to `b`, and both have these images.
    pub fn new(lab: &str, images: &[&str]) -> Self {
        Self::with(
            lab,
            Setup {
                hosts: &["a", "b", "c"],
                servers: &["b"],
                pairs: &[("a", "b")],
                images: &[("a", images), ("b", images)],
                services: false,
            },
        )
    }

    /// Hosts `a` and `b` as a distribution leaves them: with systemd, Podman and CRIU installed and
    /// nothing configured, and `agent-server` as the service that the README describes. Each can send to
    /// the other. What a person would type there (for example [`Fixture::begin`]) is typed in a login
    /// session.
    pub fn services(lab: &str, images: &[&str]) -> Self {
        Self::make_services(lab, images, artifacts::agents())
    }

    /// The same, with agents that break where they are told to.
    pub fn fragile_services(lab: &str, images: &[&str]) -> Self {
        Self::make_services(lab, images, artifacts::fragile_agents())
    }

    fn make_services(lab: &str, images: &[&str], agents: &[PathBuf]) -> Self {
        let setup = Setup {
            hosts: &["a", "b", "c"],
            servers: &["a", "b"],
            pairs: &[("a", "b"), ("b", "a")],
            images: &[("a", images), ("b", images)],
            services: true,
        };
        Self::make(lab, setup, agents)
    }

    /// Waits until the service `agent-server` of a host listens.
    pub fn wait_for_service(&self, host: &str) {
        eventually(SHORT, || match self.listens(host) {
            true => Ok(()),
            false => Err(self.server_log(host)),
        });
    }

    /// The same, where `b` can send to `a` as well.
    pub fn both_ways(lab: &str, images: &[&str]) -> Self {
        Self::make_both_ways(lab, images, artifacts::agents())
    }

    /// The same, with agents that break where they are told to (common/src/faults.rs).
    pub fn fragile(lab: &str, images: &[&str]) -> Self {
        Self::make_both_ways(lab, images, artifacts::fragile_agents())
    }

    /// `a`, `b` and `d`, paired in a ring: all pairs work both ways except `b` and `d`. The clients are
    /// on `c`.
    pub fn ring(lab: &str, images: &[&str]) -> Self {
        Self::with(
            lab,
            Setup {
                hosts: &["a", "b", "c", "d"],
                servers: &["a", "b", "d"],
                pairs: &[("a", "b"), ("b", "d"), ("d", "a"), ("b", "a"), ("a", "d")],
                images: &[("a", images), ("b", images), ("d", images)],
                services: false,
            },
        )
    }

    /// `a` and `b` with these distributions' defaults, and `c`. Nothing is installed: there is only what
    /// somebody would have who has unpacked and built this project in `/root` on either host, and these
    /// images on `a`.
    ///
    /// # Panics
    /// If they do not boot.
    pub fn bare(lab: &str, a: Distribution, b: Distribution, images: &[&str]) -> Self {
        let lab_lock = lock_lab(lab).expect("a lock can be had");
        artifacts::build(images.iter());
        let kinds = [
            ("a", Kind::Systemd(a)),
            ("b", Kind::Systemd(b)),
            ("c", Kind::Namespaces),
        ];
        let fixture = Self {
            lab: Lab::fresh_as(lab, &kinds).expect("the lab comes up"),
            servers: BTreeMap::new(),
            allowed: Vec::new(),
            _lab_lock: lab_lock,
        };
        for name in ["a", "b"] {
            let host = fixture.host(name);
            for program in artifacts::agents() {
                host.put(program, "/root/target/release/")
                    .expect("agents fit");
            }
            host.put(artifacts::unit(), "/root/dist/")
                .expect("the unit fits");
        }
        let load = artifacts::workloads().join("load");
        fixture
            .host("c")
            .put(load, "/usr/local/bin/")
            .expect("load fits");
        for image in images {
            fixture.add_image("a", image);
        }
        fixture
    }

    /// A lab with this setup.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn with(lab: &str, setup: Setup<'_>) -> Self {
        Self::make(lab, setup, artifacts::agents())
    }

    fn make_both_ways(lab: &str, images: &[&str], agents: &[PathBuf]) -> Self {
        let setup = Setup {
            hosts: &["a", "b", "c"],
            servers: &["a", "b"],
            pairs: &[("a", "b"), ("b", "a")],
            images: &[("a", images), ("b", images)],
            services: false,
        };
        Self::make(lab, setup, agents)
    }

    fn make(lab: &str, setup: Setup<'_>, agents: &[PathBuf]) -> Self {
        // Labs of both kinds can exist side by side.
        let lab = &match kind() {
            Kind::Namespaces | Kind::Services => lab.to_owned(),
            Kind::Disk => lab.replacen("m-", "d-", 1),
            Kind::Machine => lab.replacen("m-", "v-", 1),
            Kind::Systemd(_) => lab.replacen("m-", "s-", 1),
        };
        let lab_lock = lock_lab(lab).expect("a lock can be had");
        // Before there are hosts, which the build would only slow down.
        artifacts::build(setup.images.iter().flat_map(|(_, images)| *images));
        let kinds: Vec<_> = setup
            .hosts
            .iter()
            .map(|host| (*host, setup.kind(host)))
            .collect();
        let lab = Lab::fresh_as(lab, &kinds).expect("the lab comes up");
        let mut fixture = Self {
            lab,
            servers: BTreeMap::new(),
            allowed: Vec::new(),
            _lab_lock: lab_lock,
        };
        thread::scope(|scope| {
            for name in setup.hosts {
                scope.spawn(|| fixture.furnish(name, setup, agents));
            }
        });
        for name in setup.servers {
            fixture.serve(name);
        }
        for (source, destination) in setup.pairs {
            fixture.pair(source, destination);
        }
        fixture
    }

    /// Puts into a host what the setup wants there.
    fn furnish(&self, name: &str, setup: Setup<'_>, agents: &[PathBuf]) {
        let host = self.host(name);
        if host.kind().is_machine() {
            host.sh("modprobe nf_conntrack").expect("it can track");
        }
        host.sh(CONNTRACK).expect("the timeouts can be set");
        if host.kind().is_machine() {
            host.sh(SLOW_CONNTRACK).expect("the timeouts can be set");
        }
        for program in agents {
            host.put(program, "/usr/local/bin/").expect("agents fit");
        }
        host.put(artifacts::workloads().join("load"), "/usr/local/bin/")
            .expect("load fits");
        for (_, images) in setup.images.iter().filter(|(host, _)| *host == name) {
            for image in *images {
                self.add_image(name, image);
            }
            self.break_in(name);
        }
    }

    /// Podman leaves a few things behind on first use, such as turned on forwarding. A test is not
    /// to find those, so they come first.
    fn break_in(&self, host: &str) {
        let first = "podman images -n --format '{{.Repository}}' | head -n1";
        let image = self.sh(host, first);
        self.sh(
            host,
            &format!("podman run -qd --name first -p 9:9 {image} && podman rm -ft0 first"),
        );
    }

    /// Lets CRIU on a host of namespaces dump processes of users other than root, on a machine whose root lacks the
    /// capability that this takes.
    pub fn let_criu_dump_other_users(&self, host: &str) {
        limits::tell_criu(self.host(host));
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// A host.
    pub fn host(&self, name: &str) -> &Host {
        self.lab.host(name)
    }

    /// A port at a host's address.
    pub fn at(&self, host: &str, port: u16) -> String {
        format!("{}:{port}", self.host(host).ipv4())
    }

    /// A port at a host's IPv6 address.
    pub fn at_ipv6(&self, host: &str, port: u16) -> String {
        format!("[{}]:{port}", self.host(host).ipv6())
    }

    /// Runs a script in a host to its end; it must succeed.
    ///
    /// # Panics
    /// If it fails or takes too long.
    #[track_caller]
    pub fn sh(&self, host: &str, script: &str) -> String {
        let output = Job::start(self.host(host), &["sh", "-ec", script]).wait(SHORT);
        assert!(output.status.success(), "on {host}: {script}\n{output}");
        output.stdout.trim_end().to_owned()
    }

    /// Runs a command in a host to its end.
    ///
    /// # Panics
    /// If it takes too long.
    #[track_caller]
    pub fn run(&self, host: &str, argv: &[&str]) -> Output {
        Job::start(self.host(host), argv).wait(SHORT)
    }

    /// Loads the image of an example.
    pub fn add_image(&self, host: &str, image: &str) {
        let archive = format!("/tmp/{image}.tar");
        self.host(host)
            .put(artifacts::image(image), &archive)
            .expect("the image fits");
        let load = format!("podman load -qi {archive}; rm {archive}");
        let output = Job::start(self.host(host), &["sh", "-ec", &load]).wait(LOAD);
        assert!(output.status.success(), "on {host}: {load}\n{output}");
    }

    /// Starts `agent-server` and waits until it listens.
    pub fn serve(&mut self, host: &str) {
        self.serve_with(host, &[]);
    }

    /// Starts `agent-server` of a host without systemd anew, with peers that may bind what is below these
    /// directories.
    pub fn serve_allowing(&mut self, host: &str, directories: &[&str]) {
        let directories = directories.iter().map(|directory| (*directory).to_owned());
        self.allowed.extend(directories);
        self.serve(host);
    }

    /// Starts `agent-server` with these variables in its environment, and waits until it listens.
    /// One that is already running is killed first.
    ///
    /// On a host with systemd it is a service; if it is running, it is restarted.
    pub fn serve_with(&mut self, host: &str, environment: &[(&str, &str)]) {
        if unit::is_for(self.host(host)) {
            unit::start(self.host(host), environment).expect("the service starts");
            return self.wait_for_service(host);
        }
        self.servers.remove(host);
        // A killed server takes a moment to disappear.
        eventually(SHORT, || match self.listens(host) {
            false => Ok(()),
            true => Err("somebody listens already".to_owned()),
        });
        let mut command = vec!["agent-server"];
        let allowed = self.allowed.iter();
        command.extend(allowed.flat_map(|directory| ["--allow-bind", directory]));
        let server = Job::start_with(self.host(host), &command, environment);
        self.servers.insert(host.to_owned(), server);
        eventually(SHORT, || {
            let server = self.servers.get_mut(host).expect("it was just put there");
            if let Some(status) = server.ended() {
                panic!("agent-server on {host}: {status}\n{}", server.stderr());
            }
            let listens = self.listens(host);
            listens.then_some(()).ok_or("no listener".to_owned())
        });
    }

    fn listens(&self, host: &str) -> bool {
        let sockets = self.lab.host(host).sh("ss -Hltn sport = :50051");
        sockets.is_ok_and(|sockets| !sockets.is_empty())
    }

    /// Stops the `agent-server` of a host.
    pub fn stop_serving(&mut self, host: &str) {
        if unit::is_for(self.host(host)) {
            self.sh(host, "systemctl stop agent-server");
            return;
        }
        let server = self.servers.remove(host).expect("it serves");
        server.signal(nix::sys::signal::Signal::SIGTERM);
        server.wait(SHORT);
    }

    /// Whether the `agent-server` of a host still runs.
    pub fn serves(&mut self, host: &str) -> bool {
        if unit::is_for(self.host(host)) {
            return unit::runs(self.host(host));
        }
        let server = self.servers.get_mut(host);
        server.is_some_and(|server| server.ended().is_none())
    }

    /// Kills the `agent-server` of a host, without a chance to clean up. It is not restarted.
    pub fn kill_server(&mut self, host: &str) {
        if unit::is_for(self.host(host)) {
            unit::kill(self.host(host)).expect("it can be killed");
            return;
        }
        self.servers.remove(host);
    }

    /// Checks that the `agent-server` of a host still runs.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_serves(&mut self, host: &str) {
        if unit::is_for(self.host(host)) {
            let host = self.host(host);
            assert!(unit::runs(host), "{}", unit::log(host));
            return;
        }
        let server = self.servers.get_mut(host).expect("it serves");
        if let Some(status) = server.ended() {
            panic!("agent-server on {host}: {status}\n{}", server.stderr());
        }
    }

    /// What the `agent-server` of a host has said so far.
    pub fn server_log(&self, host: &str) -> String {
        if unit::is_for(self.host(host)) {
            return unit::log(self.host(host));
        }
        self.servers[host].stderr()
    }

    /// A new invitation's token.
    #[track_caller]
    pub fn invite(&self, host: &str) -> String {
        self.sh(host, "agent-server invite")
    }

    /// Pairs a source with a destination.
    #[track_caller]
    pub fn pair(&self, source: &str, destination: &str) {
        let token = self.invite(destination);
        let pair = ["agent-client", "pair", destination, "--token", &token];
        let output = self.run(source, &pair);
        assert!(output.status.success(), "{output}");
    }

    /// Starts a container from an example's image and returns its id.
    #[track_caller]
    pub fn start(&self, host: &str, name: &str, options: &str) -> String {
        self.sh(host, &format!("podman run -qd --name {name} {options}"))
    }

    /// Starts a migration.
    #[track_caller]
    pub fn begin(&self, source: &str, container: &str, to: &str, more: &[&str]) -> Job {
        self.begin_with(source, container, to, more, &[])
    }

    /// Starts a migration with these variables in its environment.
    #[track_caller]
    pub fn begin_with(
        &self,
        source: &str,
        container: &str,
        to: &str,
        more: &[&str],
        environment: &[(&str, &str)],
    ) -> Job {
        let mut argv = vec!["agent-client", "migrate", container, "--to", to];
        argv.extend(["--yes", "--format", "json"]);
        argv.extend(more);
        // A login starts with an environment of its own.
        let variables: Vec<String> = environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if self.host(source).kind() == Kind::Services {
            argv.splice(0..0, variables.iter().map(String::as_str));
            argv.insert(0, "env");
            argv.splice(0..0, LOGIN);
        }
        Job::start_with(self.host(source), &argv, environment)
    }

    /// Migrates a container.
    #[track_caller]
    pub fn migrate(&self, source: &str, container: &str, to: &str) -> Migration {
        Migration::of(self.begin(source, container, to, &[]))
    }

    /// Starts a client on `c` and waits until all of its connections are open. It sends less often
    /// to an emulated processor, which has other things to do as well.
    #[track_caller]
    pub fn client(&self, command: &str, target: &str, options: &[&str]) -> Load {
        self.client_on("c", command, target, options)
    }

    /// The same on any host.
    #[track_caller]
    pub fn client_on(&self, host: &str, command: &str, target: &str, options: &[&str]) -> Load {
        let mut arguments = vec![command, target];
        arguments.extend(options);
        if kind().is_machine() {
            let own = arguments.iter().position(|word| *word == "--interval-ms");
            if let Some(at) = own {
                arguments.drain(at..at + 2);
            }
            arguments.extend(["--interval-ms", "200"]);
        }
        let connections = options
            .windows(2)
            .find(|pair| pair[0] == "--connections")
            .map_or(1, |pair| pair[1].parse().expect("a number"));
        let client = self.host(host);
        let udp = arguments.contains(&"--udp");
        let already = load::open_connections(client, target, udp);
        Load::open(client, &arguments, target, already + connections)
    }

    /// Waits until a host no longer has a tunnel.
    ///
    /// # Panics
    /// If it keeps one.
    #[track_caller]
    pub fn wait_without_tunnel(&self, host: &str) {
        eventually(TIDY, || {
            let links = self.sh(host, "ip -br link | grep lmwg || true");
            links.is_empty().then_some(()).ok_or(links)
        });
    }

    /// Starts `load serve` on `c`, for IPv4 and IPv6.
    #[track_caller]
    pub fn outside_server(&self, port: u16) -> Load {
        self.outside_server_of(port, 1)
    }

    /// The same, expecting this many TCP connections.
    #[track_caller]
    pub fn outside_server_of(&self, port: u16, connections: usize) -> Load {
        let (address, count) = (format!("[::]:{port}"), connections.to_string());
        let load = Load::start(
            self.host("c"),
            &["serve", &address, "--connections", &count],
        );
        eventually(SHORT, || {
            let listens = self.sh("c", &format!("ss -Hltn sport = :{port}"));
            (!listens.is_empty()).then_some(()).ok_or(listens)
        });
        load
    }

    /// Creates a Podman network on these hosts. Whatever the first container of a network causes,
    /// such as IPv6 forwarding, is caused now, so that a later comparison does not find it new.
    pub fn add_network(&self, hosts: &[&str], name: &str, options: &str) {
        for host in hosts {
            self.sh(host, &format!("podman network create {options} {name}"));
            self.sh(
                host,
                &format!(
                    "image=$(podman images -n --format '{{{{.Repository}}}}' | head -n1)
                     podman run -qd --name first --network {name} $image
                     podman rm -ft0 first"
                ),
            );
        }
    }

    /// Listens on `c` for packets that say that a connection is broken.
    #[track_caller]
    pub fn listen_for_errors(&self) -> Errors {
        Errors::listen(self.host("c"))
    }

    /// What a user has defined for a container and expects to find after a move.
    #[track_caller]
    pub fn definition(&self, host: &str, container: &str) -> Value {
        let text = self.sh(host, &format!("podman inspect {container}"));
        let all: Value = serde_json::from_str(&text).expect("podman prints JSON");
        let all = &all[0];
        let networks = all["NetworkSettings"]["Networks"].as_object();
        let addresses = networks.into_iter().flatten().map(|(name, network)| {
            let of = |field: &str| &network[field];
            json!([
                name,
                of("IPAddress"),
                of("GlobalIPv6Address"),
                of("MacAddress")
            ])
        });
        let mounts = all["Mounts"].as_array().expect("a list of mounts");
        json!({
            "id": all["Id"],
            "name": all["Name"],
            "image": all["Image"],
            "image name": all["ImageName"],
            "program": [all["Path"], all["Args"]],
            "environment": all["Config"]["Env"],
            "labels": all["Config"]["Labels"],
            "hostname": all["Config"]["Hostname"],
            "ports": all["HostConfig"]["PortBindings"],
            "restart policy": all["HostConfig"]["RestartPolicy"],
            "addresses": addresses.collect::<Vec<_>>(),
            "volumes": mounts
                .iter()
                .map(|mount| json!([mount["Name"], mount["Destination"], mount["RW"]]))
                .collect::<Vec<_>>(),
        })
    }

    /// The names of all containers of a host, running or not.
    #[track_caller]
    pub fn containers(&self, host: &str) -> Vec<String> {
        let names = self.sh(host, "podman ps -a --sort names --format '{{.Names}}'");
        names.lines().map(str::to_owned).collect()
    }

    /// The state of a container, as Podman calls it.
    #[track_caller]
    pub fn state(&self, host: &str, container: &str) -> String {
        self.sh(
            host,
            &format!("podman inspect -f '{{{{.State.Status}}}}' {container}"),
        )
    }

    /// Runs a command of the host in the network namespace of a container.
    #[track_caller]
    pub fn in_network_of(&self, host: &str, container: &str, command: &str) -> String {
        let pid = format!("podman inspect -f '{{{{.State.Pid}}}}' {container}");
        self.sh(host, &format!("nsenter -n -t $({pid}) {command}"))
    }

    /// Waits until a container's program has a socket at a port (`t` TCP, listening; `u` UDP): it exists before its
    /// program gets that far. The examples' echo servers have the one for TCP first.
    ///
    /// # Panics
    /// If it gets none.
    #[track_caller]
    pub fn wait_for_port(&self, host: &str, container: &str, protocol: char, port: u16) {
        let list = format!("ss -Hln{protocol} sport = :{port}");
        eventually(SHORT, || {
            let sockets = self.in_network_of(host, container, &list);
            (!sockets.is_empty())
                .then_some(())
                .ok_or_else(|| format!("{container} on {host} has no socket at {port}"))
        });
    }

    /// Waits until a container prints something new: it runs, and its clients are answered.
    ///
    /// # Panics
    /// If it stays silent.
    #[track_caller]
    pub fn assert_talks(&self, host: &str, container: &str) {
        let last = || self.sh(host, &format!("podman logs --tail 1 {container} 2>&1"));
        let before = last();
        eventually(SHORT, || {
            let now = last();
            (now != before)
                .then_some(())
                .ok_or_else(|| format!("{container} on {host} is silent after {before}"))
        });
    }

    /// Ends a container of the workload `dial-out`, whose connections must be whole, and returns how many
    /// datagrams were not answered.
    ///
    /// # Panics
    /// If they are not whole; the message has all that it said.
    #[track_caller]
    pub fn stop_dial_out(&self, host: &str, container: &str) -> u64 {
        // The last echoes may take longer than Podman waits by itself.
        self.sh(host, &format!("podman stop -t 60 {container}"));
        let said = self.sh(host, &format!("podman logs {container} 2>&1"));
        let number = |line: &str, name: &str| -> u64 {
            let number = line
                .split(name)
                .nth(1)
                .and_then(|rest| rest.split(',').next());
            number.and_then(|n| n.parse().ok()).expect("a number")
        };
        let ends: Vec<_> = said.lines().filter(|line| line.contains("Seen")).collect();
        println!("{}", ends.join("\n"));
        let lost = |line: &&str| number(line, "sent: ") - number(line, "received: ");
        let (tcp, udp): (Vec<&str>, _) = ends.iter().partition(|line| line.starts_with("Tcp"));
        assert!(
            !tcp.is_empty() && tcp.iter().map(lost).sum::<u64>() == 0 && !said.contains("BROKEN"),
            "{said}"
        );
        udp.iter().map(lost).sum()
    }

    /// The whole state of these hosts, for a later comparison: once connections that have ended are
    /// forgotten and new links have come up.
    ///
    /// # Panics
    /// If the state keeps changing.
    #[track_caller]
    pub fn look(&self, hosts: &[&str]) -> BTreeMap<String, Snapshot> {
        let mut last: BTreeMap<String, Snapshot> = BTreeMap::new();
        eventually(SHORT, || {
            if !last.is_empty() {
                pause(700);
            }
            let before = std::mem::replace(&mut last, self.glance(hosts)?);
            for (host, now) in &last {
                let Some(before) = before.get(host) else {
                    return Err("looked at only once".to_owned());
                };
                if before != now {
                    return Err(format!("on {host}:\n{}", before.diff(now)));
                }
                for passing in PASSING {
                    if now.mentions(passing) {
                        return Err(format!("{passing} on {host}"));
                    }
                }
            }
            Ok(last.clone())
        })
    }

    /// The state of these hosts now. While it changes, a command may fail: what it has just listed is gone when it
    /// asks for more of it.
    fn glance(&self, hosts: &[&str]) -> Result<BTreeMap<String, Snapshot>, String> {
        let look = |host: &&str| match self.host(host).snapshot_with_podman() {
            Ok(snapshot) => Ok(((*host).to_owned(), snapshot)),
            Err(error) => Err(format!("{error:#}")),
        };
        hosts.iter().map(look).collect()
    }

    /// Waits until hosts are as they were before.
    ///
    /// # Panics
    /// If they do not get there; the message says what differs.
    #[track_caller]
    pub fn assert_as_before(&self, before: &BTreeMap<String, Snapshot>) {
        let hosts: Vec<&str> = before.keys().map(String::as_str).collect();
        eventually(TIDY, || {
            let now = self.glance(&hosts)?;
            let differences: String = before
                .iter()
                .map(|(host, old)| (host, old.diff(&now[host])))
                .filter(|(_, difference)| !difference.is_empty())
                .map(|(host, difference)| format!("on {host}:\n{difference}"))
                .collect();
            if differences.is_empty() {
                Ok(())
            } else {
                Err(differences)
            }
        });
    }
}

/// Waits until no other run has the lab of this name: a lab is identified by its name, and a fresh
/// one takes down an old one. Ends when the file is dropped.
fn lock_lab(lab: &str) -> std::io::Result<File> {
    let name = format!("live-migration-test-{lab}.lock");
    let file = File::create(std::env::temp_dir().join(name))?;
    file.lock()?;
    Ok(file)
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (host, server) in &self.servers {
                println!("agent-server on {host} said:\n{}", server.stderr());
            }
            for host in self.lab.hosts().iter().filter(|host| unit::is_for(host)) {
                println!("on {} systemd says:\n{}", host.name(), unit::log(host));
            }
        }
    }
}
