//! Tunnels and quarantine on the real kernel, between network namespaces made here.
//!
//! Each [`Host`] is a thread in its own network and mount namespaces: `/run` is private, as on
//! real hosts. Keepers are this test program, started again to run one "test".

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use super::flows::guests;
use super::kernel::netns;
use super::mark::{Direction, Index, Mark};
use super::packets::keep_order::Waiting;
use super::packets::queue::MOST_PACKETS;
use super::packets::{mss, quarantine};
use super::state::{self, Claim, Dirs};
use super::tunnel::agreement::{PublicKey, Terms};
use super::tunnel::lifecycle;
use super::tunnel::wireguard::{Backend, PrivateKey};
use super::tunnel::{Tunnel, TunnelError};
use super::tunnel::{in_use, keeper, spawn, status};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Why the kernel tests cannot run here, if so.
fn unable() -> bool {
    let why = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if !Path::new("/dev/net/tun").exists() {
        "no /dev/net/tun"
    } else if Command::new("nft").arg("--version").output().is_err() {
        "no nft"
    } else {
        return false;
    };
    println!("skipped: {why}");
    true
}

type Work = Box<dyn FnOnce() + Send>;

/// A host: everything run on it sees its namespaces.
struct Host {
    work: mpsc::Sender<Work>,
    netns: PathBuf,
    dirs: Dirs,
}

impl Host {
    fn new() -> Self {
        let (work, inbox) = mpsc::channel::<Work>();
        let (ready, started) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(none, "/", none, private, none).unwrap();
            mount(none, "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
            ready.send(nix::unistd::gettid()).unwrap();
            while let Ok(work) = inbox.recv() {
                work();
            }
        });
        let tid = started.recv().unwrap();
        let host = Host {
            work,
            netns: format!("/proc/{}/task/{tid}/ns/net", std::process::id()).into(),
            dirs: Dirs {
                state: "/run/state".into(),
                run: "/run/live-migration".into(),
            },
        };
        host.sh("ip link set lo up; sysctl -qw net.ipv4.ip_forward=1");
        // No link-local addresses: they appear at any time, and snapshots would differ.
        host.sh("sysctl -qw net.ipv6.conf.default.addr_gen_mode=1");
        host
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let work = move || {
            let _ = done.send(work());
        };
        self.work.send(Box::new(work)).unwrap();
        result.recv().expect("the work on the host panicked")
    }

    fn with_dirs<T: Send + 'static>(&self, work: impl FnOnce(&Dirs) -> T + Send + 'static) -> T {
        let dirs = self.dirs.clone();
        self.run(move || work(&dirs))
    }

    fn sh(&self, script: &str) -> String {
        let script = script.to_owned();
        self.run(move || {
            let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            assert!(
                output.status.success(),
                "{script}: {}",
                text(&output.stderr)
            );
            text(&output.stdout)
        })
    }

    /// Connects two hosts by a veth pair, a /24 and a /64.
    fn connect(&self, mine: &str, other: &Host, theirs: &str, net: u8) {
        let pid = std::process::id();
        let tid = other.netns.to_str().unwrap().split('/').nth(4).unwrap();
        self.sh(&format!(
            "ip link add {mine} type veth peer name {theirs} netns /proc/{pid}/task/{tid}/ns/net"
        ));
        for (host, interface, number) in [(self, mine, 1), (other, theirs, 2)] {
            host.sh(&format!(
                "ip addr add 198.18.{net}.{number}/24 dev {interface}
                 ip addr add 2001:db8:{net}::{number}/64 dev {interface} nodad
                 ip link set {interface} up"
            ));
        }
        for (host, interface) in [(self, mine), (other, theirs)] {
            let interface = format!("ip -o link show {interface}");
            eventually("the link is up", TIMEOUT, || {
                host.sh(&interface).contains("state UP")
            });
        }
    }

    /// Everything about the host's network that must be as it was.
    fn snapshot(&self) -> BTreeMap<String, String> {
        let mut snapshot: BTreeMap<_, _> = [
            "ip -j addr",
            "ip -j route show table all",
            "ip -j -6 route show table all",
            "ip rule; ip -6 rule",
            "nft list ruleset",
            "ss -lunpH | grep -o 'UNCONN *[0-9]* *[0-9]* *[^ ]*' || true",
            "ls -A /run/wireguard 2>/dev/null || true",
            "find /proc/sys/net -type f -readable ! -name '*count*' ! -name '*stats*' \
             -exec grep -H . {} + 2>/dev/null || true",
        ]
        .into_iter()
        .map(|command| (command.to_owned(), self.sh(command)))
        .collect();
        let records = self.sh("ls /run/live-migration/tunnels 2>/dev/null | grep json || true");
        snapshot.insert("records".into(), records);
        snapshot
    }

    fn has_keeper(&self) -> bool {
        let index = Index::try_from(1).unwrap();
        self.with_dirs(move |dirs| spawn::is_alive(dirs, index).unwrap())
    }

    /// Kills the keeper of the host's only tunnel: the only other process in the namespace.
    fn kill_keeper(&self) {
        self.sh("here=$(readlink /proc/self/ns/net)
             for p in $(grep -l LM_TEST_KEEPER= /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3); do
                 if test \"$(readlink /proc/$p/ns/net)\" = $here; then kill -9 $p; fi
             done");
        eventually("the keeper is gone", TIMEOUT, || !self.has_keeper());
    }
}

/// Shows differences only: a whole snapshot is a wall of text.
fn assert_same(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    for (what, text) in before {
        let (old, new): (Vec<_>, Vec<_>) = (text.lines().collect(), after[what].lines().collect());
        let gone: Vec<_> = old.iter().filter(|line| !new.contains(line)).collect();
        let come: Vec<_> = new.iter().filter(|line| !old.contains(line)).collect();
        assert!(
            gone.is_empty() && come.is_empty(),
            "{what}: gone {gone:#?}, come {come:#?}"
        );
    }
}

fn eventually(what: &str, timeout: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + timeout;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {timeout:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// This program as a keeper.
fn keeper_command(dirs: &Dirs) -> impl Fn(Index) -> Command {
    let dirs = [&dirs.run, &dirs.state].map(|dir| dir.display().to_string());
    move |index| {
        let mut command = again("keeper_process");
        command.env("LM_TEST_KEEPER", format!("{index}:{}:{}", dirs[0], dirs[1]));
        command
    }
}

fn again(test: &str) -> Command {
    let module = module_path!().split_once("::").unwrap().1;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        &format!("{module}::{test}"),
        "--exact",
        "--ignored",
        "--nocapture",
    ]);
    command
}

#[test]
#[ignore = "run by other tests, as a process of its own"]
fn keeper_process() {
    let Ok(text) = std::env::var("LM_TEST_KEEPER") else {
        return;
    };
    let [index, run, state] = text.split(':').collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    let dirs = Dirs {
        state: state.into(),
        run: run.into(),
    };
    let index: u8 = index.parse().unwrap();
    if let Err(error) = keeper::run(&dirs, index.try_into().unwrap(), |_| Command::new("false")) {
        eprintln!("keeper: {error}");
        std::process::exit(1);
    }
}

#[test]
#[ignore = "run by other tests, as a process of its own"]
fn establish_and_die() {
    let Ok(text) = std::env::var("LM_TEST_ESTABLISH") else {
        return;
    };
    let terms = serde_json::from_str(&text).unwrap();
    let dirs = Dirs {
        state: "/run/state".into(),
        run: "/run/live-migration".into(),
    };
    let peer = "198.18.1.2".parse().unwrap();
    let _tunnel = Tunnel::establish(&dirs, &terms, peer, &owner(), &keeper_command(&dirs)).unwrap();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// Source and destination, connected, each with settings of its own that must survive.
fn hosts() -> (Host, Host) {
    let (source, destination) = (Host::new(), Host::new());
    source.connect("eth0", &destination, "eth0", 1);
    for host in [&source, &destination] {
        host.sh(
            "ip link add foreign type bridge; ip addr add 10.1.2.3/16 dev foreign
             ip link set foreign up; ip rule add fwmark 0x80000/0xff0000 priority 5210 lookup main
             nft add table ip foreign
             nft 'add chain ip foreign c { type filter hook forward priority 0; }'
             nft add rule ip foreign c meta mark set mark or 0x2000",
        );
    }
    source.sh("ip route add default via 198.18.1.2");
    destination.sh("ip route add default via 198.18.1.1");
    (source, destination)
}

/// The one peer that either host has.
fn owner() -> Claim {
    client(1)
}

fn client(number: u8) -> Claim {
    Claim::Client(format!("{number:064x}").parse().unwrap())
}

fn negotiate(source: &Host, destination: &Host) -> Terms {
    let offer = source.with_dirs(|dirs| Tunnel::offer(dirs, &keeper_command(dirs)).unwrap());
    destination.with_dirs(move |dirs| {
        Tunnel::answer(dirs, &offer, &owner(), &keeper_command(dirs)).unwrap()
    })
}

fn establish(host: &Host, terms: &Terms, peer: &str) -> Tunnel {
    let (terms, peer): (_, IpAddr) = (terms.clone(), peer.parse().unwrap());
    host.with_dirs(move |dirs| {
        Tunnel::establish(dirs, &terms, peer, &owner(), &keeper_command(dirs)).unwrap()
    })
}

fn tunnel(source: &Host, destination: &Host) -> (Tunnel, Tunnel) {
    let terms = negotiate(source, destination);
    let there = establish(destination, &terms, "198.18.1.1");
    let here = establish(source, &terms, "198.18.1.2");
    (here, there)
}

fn prove(host: &Host, tunnel: Tunnel) -> Tunnel {
    host.run(move || {
        tunnel.prove(TIMEOUT).unwrap();
        tunnel
    })
}

#[test]
fn a_tunnel_is_proven_reused_and_leaves_nothing() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    let before = [&source, &destination].map(Host::snapshot);

    let (here, there) = tunnel(&source, &destination);
    let here = prove(&source, here);
    let there = prove(&destination, there);
    assert!(!here.reused() && !there.reused());
    assert_eq!(here.peer_address(), there.local_address());
    assert_eq!(here.interface(), "lmwg1");
    let ping6 = source.sh("ip -6 route show dev lmwg1");
    assert!(ping6.contains("/126"), "{ping6}");
    let status = source.with_dirs(|dirs| status::list(dirs).unwrap());
    assert_eq!(status.len(), 1);
    assert!(status[0].alive && status[0].flows == 0);

    // Either direction finds it again.
    let again = negotiate(&source, &destination);
    let back = negotiate(&destination, &source);
    assert_eq!(again.agreement, back.agreement);
    let second = establish(&source, &again, "198.18.1.2");
    assert!(second.reused());
    assert_eq!(second.index(), here.index());

    // A lease keeps it; the last one gone, it goes.
    assert!(!source.run(move || here.teardown().unwrap()));
    let second = prove(&source, second);
    assert!(source.run(move || second.teardown().unwrap()));
    assert!(destination.run(move || there.teardown().unwrap()));
    for (host, before) in [&source, &destination].into_iter().zip(&before) {
        eventually("keepers end", TIMEOUT, || !host.has_keeper());
        assert_same(before, &host.snapshot());
    }
}

#[test]
fn a_tunnel_belongs_to_the_peer_that_asked_for_it() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    let (here, there) = tunnel(&source, &destination);
    let here = prove(&source, here);
    let before = destination.sh("cat /run/live-migration/tunnels/lmwg1.*");
    // Another peer, which knows all that is told of the tunnel, names its key.
    let answer = |claim: Claim, listed: bool| {
        let mut offer =
            source.with_dirs(|dirs| Tunnel::offer(dirs, &keeper_command(dirs)).unwrap());
        if !listed {
            offer.tunnels.clear();
        }
        destination
            .with_dirs(move |dirs| Tunnel::answer(dirs, &offer, &claim, &keeper_command(dirs)))
    };
    for listed in [true, false] {
        let refused = answer(client(2), listed);
        assert!(
            matches!(refused, Err(TunnelError::KeyOfAnother(_))),
            "{refused:?}"
        );
    }
    let between = PublicKey("between".to_owned());
    let introduced = answer(Claim::Introduced(between.clone()), false);
    assert!(
        matches!(introduced, Err(TunnelError::KeyOfAnother(_))),
        "{introduced:?}"
    );
    // Its own peer, and who leads flows past a host to an end that has its half, may use it. Neither needs
    // to be told its ticket, and who brings the answer to that end does not learn it.
    let ticket = destination.sh("cat /run/live-migration/tunnels/lmwg1.ticket");
    for claim in [owner(), Claim::Introduced(between)] {
        let terms = answer(claim, true).unwrap();
        assert_ne!(serde_json::to_string(&terms.ticket).unwrap(), ticket);
    }
    assert_eq!(
        before,
        destination.sh("cat /run/live-migration/tunnels/lmwg1.*")
    );
    drop((here, there));
}

/// Good terms for `destination`, with its second tunnel.
fn second_terms(source: &Host, destination: &Host) -> Terms {
    let mut terms = negotiate(source, destination);
    let key = destination.with_dirs(|dirs| PrivateKey::load_or_create(&dirs.state).unwrap());
    for end in &mut terms.agreement.ends {
        match end.public_key == key.public() {
            true => end.port = 51_822,
            false => end.public_key = PublicKey("another".into()),
        }
    }
    let free = with_network(&terms, ("ipv4", "10.200.100.40/30"));
    let terms = serde_json::from_value(free).unwrap();
    serde_json::from_value(with_network(&terms, ("ipv6", "fd99::/126"))).unwrap()
}

/// What `foreign` and others of [`hosts`] use, and is the size of a tunnel's network; and what no tunnel has.
const IN_USE: [(&str, &str); 4] = [
    ("ipv4", "10.1.2.0/30"),
    ("ipv4", "172.20.30.40/30"),
    ("ipv6", "fd12:3456::/126"),
    ("ipv6", "fd12:3456:0:1:2:3:4:5c/126"),
];
const NO_TUNNELS: [(&str, &str); 8] = [
    ("ipv4", "0.0.0.0/0"),
    ("ipv4", "128.0.0.0/1"),
    ("ipv4", "10.9.8.0/24"),
    ("ipv4", "198.18.1.0/30"),
    ("ipv4", "255.255.255.255/32"),
    ("ipv6", "::/0"),
    ("ipv6", "2001:db8:1::/126"),
    ("ipv6", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"),
];

fn use_networks(host: &Host) {
    host.sh("ip route add 172.20.0.0/16 via 10.1.2.9
         ip -6 addr add fd12:3456::1/48 dev foreign nodad");
}

/// These terms in JSON, with another network.
fn with_network(terms: &Terms, (family, network): (&str, &str)) -> serde_json::Value {
    let mut json = serde_json::to_value(terms).unwrap();
    json["agreement"][family] = network.into();
    json
}

#[test]
fn networks_that_a_peer_makes_up_are_not_brought_up() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    use_networks(&source);
    let terms = negotiate(&source, &destination);
    let before = source.snapshot();
    let established = |terms: Terms| {
        source.with_dirs(move |dirs| {
            let peer = "198.18.1.2".parse().unwrap();
            let made = Tunnel::establish(dirs, &terms, peer, &owner(), &keeper_command(dirs));
            made.map(drop).map_err(|error| error.to_string())
        })
    };
    for network in IN_USE {
        let terms = serde_json::from_value(with_network(&terms, network)).unwrap();
        let error = established(terms).unwrap_err();
        assert!(
            error.contains("networks are in use"),
            "{network:?}: {error}"
        );
        assert_same(&before, &source.snapshot());
    }
    for network in NO_TUNNELS {
        let terms = serde_json::from_value::<Terms>(with_network(&terms, network));
        assert!(terms.is_err(), "{network:?}");
    }
    // Handshakes are not sent to a service.
    let mut terms = terms;
    let key = destination.with_dirs(|dirs| PrivateKey::load_or_create(&dirs.state).unwrap());
    let mut ends = terms.agreement.ends.iter_mut();
    let theirs = ends.find(|end| end.public_key == key.public()).unwrap();
    theirs.port = 53;
    let error = established(terms).unwrap_err();
    assert!(error.contains("not for this host"), "{error}");
    assert_same(&before, &source.snapshot());
}

/// Says this to the keeper at the other end of tunnel 1 and returns its answer, if it gives one.
fn say_to_keeper(host: &Host, tunnel: &Tunnel, request: &serde_json::Value) -> Option<String> {
    let (peer, request) = (tunnel.peer_address(), request.to_string());
    host.with_dirs(move |dirs| {
        let ticket = state::ticket(dirs, Index::try_from(1).unwrap())
            .unwrap()
            .unwrap();
        let keeper = SocketAddr::new(peer, super::ports::KEEPER);
        let mut stream = TcpStream::connect_timeout(&keeper, TIMEOUT).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(15)))
            .unwrap();
        stream.write_all(ticket.bytes()).unwrap();
        let length = (request.len() as u32).to_be_bytes();
        stream.write_all(&length).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut answer).unwrap();
        Some(String::from_utf8(answer).unwrap())
    })
}

#[test]
fn networks_that_an_introduction_makes_up_are_not_brought_up() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    use_networks(&destination);
    let (here, there) = tunnel(&source, &destination);
    let (here, there) = (prove(&source, here), prove(&destination, there));
    let terms = second_terms(&source, &destination);
    let before = destination.snapshot();
    let meet = |terms: serde_json::Value| {
        let request =
            serde_json::json!({"request": "meet", "terms": terms, "address": "198.18.1.1"});
        say_to_keeper(&source, &here, &request)
    };
    for network in IN_USE {
        let answer = meet(with_network(&terms, network));
        assert_eq!(
            answer.as_deref(),
            Some(r#"{"reply":"taken"}"#),
            "{network:?}"
        );
        assert_same(&before, &destination.snapshot());
    }
    for network in NO_TUNNELS {
        // It is no message, and ends the conversation.
        assert_eq!(meet(with_network(&terms, network)), None, "{network:?}");
        assert_same(&before, &destination.snapshot());
    }
    // This keeper cannot start another one, but terms like these are acceptable.
    let answer = meet(serde_json::to_value(&terms).unwrap()).unwrap();
    assert!(answer.contains("keeper"), "{answer}");
    drop((here, there));
}

#[test]
fn one_host_introduces_only_so_many_others() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    let claim = Claim::Introduced(PublicKey("between".to_owned()));
    let mut refused = None;
    let mut leases = Vec::new();
    for number in 0..20 {
        // Each offer has another key.
        source.sh("rm -f /run/state/wireguard.key");
        let mut offer =
            source.with_dirs(|dirs| Tunnel::offer(dirs, &keeper_command(dirs)).unwrap());
        offer.port += number;
        let claim = claim.clone();
        let made = destination.with_dirs(move |dirs| {
            let peer = "198.18.1.1".parse().unwrap();
            Tunnel::accept(dirs, &offer, peer, &claim, &keeper_command(dirs))
        });
        match made {
            Ok((tunnel, _)) => leases.push(tunnel),
            Err(error) => {
                refused = Some((number, error));
                break;
            }
        }
    }
    let (number, error) = refused.expect("there is a limit");
    assert!(
        matches!(error, TunnelError::TooManyIntroduced(16)),
        "{number}: {error}"
    );
    assert_eq!(leases.len(), 16);
    drop(leases);
    destination.with_dirs(|dirs| status::clean_up(dirs, &keeper_command(dirs)).unwrap());
}

#[test]
fn rules_and_routes_say_that_the_kernel_made_them() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    let before = source.snapshot();
    let (here, there) = tunnel(&source, &destination);
    for family in ["-4", "-6"] {
        let rule = source.sh(&format!("ip -d {family} rule show priority 1001"));
        assert!(rule.contains("proto kernel"), "{rule}");
        let routes = source.sh(&format!("ip -d {family} route show table 21001"));
        assert_eq!(routes.matches("proto kernel").count(), 2, "{routes}");
        // As an older version made them. The keeper may be faster with its own: then once more.
        source.sh(&format!(
            "instead() {{
                 for attempt in $(seq 100); do
                     ip {family} $1 del $2 || true
                     if ip {family} $1 add $3; then return; fi
                 done
                 false
             }}
             route='blackhole default table 21001 metric 4294967295'
             instead rule 'priority 1001' 'fwmark 0x10000/0x3f0000 priority 1001 table 21001'
             instead route \"$route\" \"$route proto static\""
        ));
    }
    assert!(source.run(move || here.teardown().unwrap()));
    eventually("the keeper ends", TIMEOUT, || !source.has_keeper());
    assert_same(&before, &source.snapshot());
    destination.run(move || there.teardown().unwrap());
}

#[test]
fn a_half_whose_other_half_is_gone_gives_way() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    let (here, there) = tunnel(&source, &destination);
    let here = prove(&source, here);
    assert!(destination.run(move || there.teardown().unwrap()));
    drop(here);

    // The other end reuses its port; this end uses another index for it.
    let (here, there) = tunnel(&source, &destination);
    assert_eq!(here.interface(), "lmwg2");
    assert_eq!(there.interface(), "lmwg1");
    let here = prove(&source, here);
    let there = prove(&destination, there);
    let left = source.with_dirs(|dirs| status::list(dirs).unwrap());
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(source.run(move || here.teardown().unwrap()));
    assert!(destination.run(move || there.teardown().unwrap()));
}

#[test]
fn marked_flows_take_the_tunnel_and_hold_it() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    let client = client_of(&source, &destination);
    let before = [&source, &destination].map(Host::snapshot);
    let (here, there) = tunnel(&source, &destination);
    let here = prove(&source, here);
    let index = here.index();

    // What migration does to flows, done by rules: the source sends the original direction through
    // the tunnel, the destination the reply direction. Neither may pass outside the tunnel.
    let to = Mark(0).with(Direction::Original, Some(index)).0;
    let back = Mark(0).with(Direction::Reply, Some(there.index())).0;
    for (host, interface, mark) in [(&source, "eth1", to), (&destination, "lmwg1", back)] {
        mark_flows(host, interface, mark);
        host.sh("nft add rule ip t c iifname eth0 ip protocol tcp drop");
    }
    let address: SocketAddr = "198.51.100.7:7000".parse().unwrap();
    let listener = destination.run(move || TcpListener::bind(address).unwrap());
    let mut stream =
        client.run(move || TcpStream::connect_timeout(&address, TIMEOUT).expect("through"));
    let (mut served, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), Ipv4Addr::new(198, 18, 2, 1));
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut received = vec![0; 1 << 20];
    thread::scope(|scope| {
        scope.spawn(|| served.write_all(&vec![7; 1 << 20]).unwrap());
        stream.read_exact(&mut received).unwrap();
    });
    assert!(received.iter().all(|byte| *byte == 7));
    assert_eq!(source.run(move || spawn::flows(index).unwrap()), 1);

    // The flow outlives the migration that made the tunnel, and keeps the tunnel.
    assert!(!source.run(move || here.teardown().unwrap()));
    drop(there);
    thread::sleep(keeper::IDLE + Duration::from_secs(3));
    served.write_all(b"still here").unwrap();
    stream.read_exact(&mut received[..10]).unwrap();
    assert_eq!(&received[..10], b"still here");

    // An index that flows still name is not allotted to another tunnel.
    for host in [&source, &destination] {
        host.sh("nft delete table ip t");
    }
    let in_use = source.run(|| in_use::gather(&[]).unwrap());
    assert!(in_use.indexes.iter().any(|(taken, _)| *taken == index));

    // When the flow ends, its keepers take the tunnel down.
    drop((stream, served, listener));
    for host in [&source, &destination] {
        host.sh("sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_time_wait=1");
    }
    for (host, before) in [&source, &destination].into_iter().zip(&before) {
        host.run(forget_flows);
        eventually("the tunnel ends", Duration::from_secs(20), || {
            host.with_dirs(|dirs| status::list(dirs).unwrap().is_empty()) && !host.has_keeper()
        });
        host.sh("sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_time_wait=120");
        assert_same(before, &host.snapshot());
    }
}

/// Whether a TCP connection to there comes about.
fn connects(host: &Host, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    host.run(move || TcpStream::connect_timeout(&to, Duration::from_millis(400)).is_ok())
}

/// What keeps others' packets out of tunnel 1, at either end of it.
const FILTERS: [&str; 2] = ["to_tunnel_1", "from_tunnel_1"];

/// Removes the rules of these chains; a keeper puts them back within a second.
fn open<'a>(filters: impl IntoIterator<Item = &'a (&'a Host, &'a str)>) {
    for (host, chain) in filters {
        host.sh(&format!("nft flush chain inet live_migration {chain}"));
    }
}

/// Waits until they are back.
fn closed<'a>(filters: impl IntoIterator<Item = &'a (&'a Host, &'a str)>) {
    for (host, chain) in filters {
        let list = format!("nft list chain inet live_migration {chain}");
        eventually("the rules are back", TIMEOUT, || {
            host.sh(&list).contains("drop")
        });
    }
}

#[test]
fn only_what_moved_and_the_agents_pass_a_tunnel() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    // As containers on bridges of theirs.
    let (near, far) = (Host::new(), Host::new());
    near.connect("eth0", &source, "near", 3);
    far.connect("eth0", &destination, "far", 4);
    near.sh("ip route add default via 198.18.3.2; ip -6 route add default via 2001:db8:3::2");
    far.sh("ip route add default via 198.18.4.2; ip -6 route add default via 2001:db8:4::2");
    for host in [&source, &destination] {
        host.sh("sysctl -qw net.ipv6.conf.all.forwarding=1");
    }
    let (here, there) = tunnel(&source, &destination);
    let (here, there) = (prove(&source, here), prove(&destination, there));
    let ends = [
        (&source, &near, 3, 1, &here),
        (&destination, &far, 4, 2, &there),
    ];
    for ((attacker, behind_it, ..), (attacked, behind, net, number, end)) in
        [(ends[0], ends[1]), (ends[1], ends[0])]
    {
        attacker.sh(&format!(
            "ip route add 198.18.{net}.0/24 dev lmwg1; ip -6 route add 2001:db8:{net}::/64 dev lmwg1
             ip route add 198.18.1.{number}/32 dev lmwg1 table 99
             ip rule add to 198.18.1.{number} dport 7000 lookup 99"
        ));
        let listening = [behind, attacked].map(|host| {
            let listening = host.run(|| {
                (
                    TcpListener::bind("[::]:7000").unwrap(),
                    UdpSocket::bind("[::]:7000").unwrap(),
                )
            });
            let wait = Duration::from_millis(200);
            listening.1.set_read_timeout(Some(wait)).unwrap();
            listening
        });
        let services = [
            format!("198.18.{net}.1:7000"),
            format!("[2001:db8:{net}::1]:7000"),
            format!("198.18.{net}.2:7000"),
            format!("198.18.1.{number}:7000"),
            format!("{}:7000", end.local_address()),
        ];
        let filters = FILTERS.map(|chain| [(attacker, chain), (attacked, chain)]);
        let [[entry, _], [_, exit]] = filters;
        // One of them is enough: root at the one end has no rules, or root at the other.
        for enough in [exit, entry] {
            closed(filters.as_flattened());
            let others = || {
                filters
                    .as_flattened()
                    .iter()
                    .filter(|filter| filter.1 != enough.1 || !std::ptr::eq(filter.0, enough.0))
            };
            for from in [attacker, behind_it] {
                for service in &services {
                    open(others());
                    assert!(
                        !connects(from, service),
                        "{service} in spite of {}",
                        enough.1
                    );
                    open(others());
                    let to: SocketAddr = service.parse().unwrap();
                    from.run(move || {
                        let socket = UdpSocket::bind("[::]:0").unwrap();
                        // There may be no route that way, which is as good.
                        let _ = socket.send_to(b"from a peer", to);
                    });
                }
                for (_, udp) in &listening {
                    let heard = udp.recv(&mut [0; 64]);
                    assert!(heard.is_err(), "datagrams in spite of {}", enough.1);
                }
            }
        }
        // It is these rules that keep them out.
        eventually("they get in without any", TIMEOUT, || {
            open(filters.as_flattened());
            connects(attacker, &services[0])
        });
        attacker.sh(&format!(
            "ip rule del to 198.18.1.{number} dport 7000 lookup 99"
        ));
    }
    // What the agents need goes on.
    let (here, there) = (prove(&source, here), prove(&destination, there));
    drop((here, there));
}

#[test]
fn a_container_that_is_removed_is_no_guest_any_more() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    let (here, there) = tunnel(&source, &destination);
    destination.sh("mkdir -p /run/stays/userdata /run/goes/userdata");
    let index = there.index();
    for (name, last) in [("stays", 5), ("goes", 6)] {
        destination.with_dirs(move |dirs| {
            let bundle = Path::new("/run").join(name).join("userdata");
            let address = IpAddr::from([10, 88, 0, last]);
            guests::arrive(dirs, index, name, &[address], &bundle).unwrap();
        });
    }
    let rules = || destination.sh("nft list chain inet live_migration guests_1");
    assert!(rules().contains("10.88.0.5") && rules().contains("10.88.0.6"));
    destination.sh("rm -r /run/goes");
    eventually("it is forgotten", TIMEOUT, || {
        !rules().contains("10.88.0.6")
    });
    assert!(rules().contains("10.88.0.5"));
    // What is put back is what is left.
    destination.sh("nft flush ruleset");
    eventually("the rules are back", TIMEOUT, || {
        destination.sh("nft list ruleset").contains("10.88.0.5")
    });
    assert!(!rules().contains("10.88.0.6"));
    drop((here, there));
}

#[test]
fn packets_that_leave_through_a_tunnel_wait_for_others() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    let client = client_of(&source, &destination);
    let (here, there) = tunnel(&source, &destination);
    let here = prove(&source, here);
    let index = here.index();
    let to = Mark(0).with(Direction::Original, Some(index)).0;
    let back = Mark(0).with(Direction::Reply, Some(there.index())).0;
    mark_flows(&source, "eth1", to);
    mark_flows(&destination, "lmwg1", back);
    let peer = destination.run(|| UdpSocket::bind("198.51.100.7:7000").unwrap());
    peer.set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let sender = client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let send = |numbers: std::ops::Range<u8>| {
        for number in numbers {
            sender.send_to(&[number], "198.51.100.7:7000").unwrap();
        }
    };
    let receive = || {
        let mut number = [0];
        peer.recv(&mut number).ok().map(|_| number[0])
    };
    send(0..1);
    assert_eq!(receive(), Some(0));

    // Its threads are in the source's namespaces.
    let runtime = source.run(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap()
    });
    let begin = || {
        let dirs = source.dirs.clone();
        let begun = runtime.spawn(async move { Waiting::begin(&dirs, index).await.unwrap() });
        runtime.block_on(begun).unwrap()
    };
    let waiting = begin();
    // Packets of no moved flow do not wait.
    let here = prove(&source, here);
    send(1..100);
    assert_eq!(receive(), None);
    drop(waiting);
    send(100..200);
    for number in 1..200 {
        assert_eq!(receive(), Some(number));
    }

    // Nobody releases them.
    peer.set_read_timeout(Some(TIMEOUT)).unwrap();
    let rules = || source.sh("nft list chain inet live_migration waiting_1");
    eventually("the rule is gone", TIMEOUT, || !rules().contains("jump"));
    let _waiting = begin();
    assert!(rules().contains("jump"));
    send(200..210);
    for number in 200..210 {
        assert_eq!(receive(), Some(number));
    }

    // The end of a tunnel takes hooks away, and with any hook the kernel drops what waits in its namespace.
    eventually("the rule is gone", TIMEOUT, || !rules().contains("jump"));
    let waiting = begin();
    send(210..220);
    let unused = Index::try_from(9).unwrap();
    let taken_down =
        || source.with_dirs(move |dirs| lifecycle::take_down_if_idle(dirs, unused).unwrap());
    assert!(!taken_down());
    drop(waiting);
    for number in 210..220 {
        assert_eq!(receive(), Some(number));
    }
    eventually("nothing waits", TIMEOUT, taken_down);
    // That is so: or there were no need to wait with it.
    source.sh("nft add table ip other && nft 'add chain ip other c { type filter hook input priority 0; }'");
    let waiting = begin();
    send(220..230);
    source.sh("nft delete table ip other");
    drop(waiting);
    send(230..231);
    assert_eq!(receive(), Some(230));
    drop((here, there));
}

/// A client that reaches an address of the destination by way of the source.
fn client_of(source: &Host, destination: &Host) -> Host {
    let client = Host::new();
    client.connect("eth0", source, "eth1", 2);
    client.sh("ip route add default via 198.18.2.2");
    destination.sh("ip addr add 198.51.100.7/32 dev lo");
    client
}

/// Gives packets for that address that come in by this interface a connmark.
fn mark_flows(host: &Host, interface: &str, mark: u32) {
    host.sh(&format!(
        "nft add table ip t
         nft 'add chain ip t c {{ type filter hook prerouting priority -160; }}'
         nft add rule ip t c iifname {interface} ip daddr 198.51.100.7 ct mark set {mark}"
    ));
}

/// Ends all tracked connections of the namespace: time-outs would take minutes.
fn forget_flows() {
    let mut table = conntrack::Conntrack::open().unwrap();
    for flow in table.list(conntrack::Filter::default()).unwrap() {
        let _ = table.delete(&flow);
    }
}

#[test]
fn an_idle_tunnel_ends_by_itself_after_its_maker_was_killed() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    let before = source.snapshot();
    let terms = negotiate(&source, &destination);
    let text = serde_json::to_string(&terms).unwrap();
    source.run(move || {
        let status = again("establish_and_die")
            .env("LM_TEST_ESTABLISH", text)
            .status()
            .unwrap();
        assert!(!status.success());
    });
    assert!(source.sh("ip link show lmwg1").contains("UP"));
    // The tunnel of the killed process is whole.
    let there = establish(&destination, &terms, "198.18.1.1");
    let there = prove(&destination, there);
    eventually("the tunnel ends", Duration::from_secs(20), || {
        source.with_dirs(|dirs| status::list(dirs).unwrap().is_empty())
    });
    eventually("its keeper ends", TIMEOUT, || !source.has_keeper());
    assert_same(&before, &source.snapshot());
    destination.run(move || there.teardown().unwrap());
}

#[test]
fn a_tunnel_is_removed_from_its_record_alone() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    let before = source.snapshot();
    let sweep = || source.with_dirs(|dirs| lifecycle::sweep(dirs, &keeper_command(dirs)).unwrap());
    let (here, there) = tunnel(&source, &destination);

    // Its keeper dies while somebody uses it: left alone. Marked packets are dropped, not leaked.
    let record = source.sh("cat /run/live-migration/tunnels/lmwg1.json");
    source.kill_keeper();
    assert!(!source.sh("ip -o link").contains("lmwg1"));
    sweep();
    assert!(source.sh("nft list ruleset").contains("prerouting_1"));
    let route = source.sh("ip route get 192.0.2.9 mark 0x10000 2>&1 || true");
    assert!(!route.contains("eth0"), "{route}");

    // Nobody uses it: removed completely. So is a record for which nothing was ever made.
    drop(here);
    sweep();
    assert_same(&before, &source.snapshot());
    fs::write(
        source.proc_root("run/live-migration/tunnels/lmwg1.json"),
        record,
    )
    .unwrap();
    sweep();
    sweep();
    assert_same(&before, &source.snapshot());
    destination.run(move || there.teardown().unwrap());
}

impl Host {
    /// A path in the host's mount namespace, as seen from here.
    fn proc_root(&self, path: &str) -> PathBuf {
        let task = self.netns.parent().unwrap().parent().unwrap();
        task.join("root").join(path)
    }
}

#[test]
fn failure_to_start_leaves_nothing() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    let before = source.snapshot();
    let terms = negotiate(&source, &destination);
    let elsewhere = terms.clone();
    let error = source.with_dirs(move |dirs| {
        let peer = "198.18.1.2".parse().unwrap();
        Tunnel::establish(dirs, &terms, peer, &owner(), &|_| Command::new("false")).unwrap_err()
    });
    assert!(matches!(error, TunnelError::Spawn(_)), "{error}");
    assert_same(&before, &source.snapshot());

    // A tunnel whose other end does not answer says which ports to open.
    let here = establish(&source, &elsewhere, "198.18.1.2");
    assert_eq!(here.backend() == Backend::Kernel, source.kernel_wireguard());
    let (here, error) = source.run(move || {
        let error = here.prove(Duration::from_millis(500)).unwrap_err();
        (here, error)
    });
    assert!(error.to_string().contains("198.18.1.2:51821"), "{error}");
    assert!(matches!(
        error,
        TunnelError::NoHandshake { port: 51821, .. }
    ));
    assert!(source.run(move || here.teardown().unwrap()));
}

impl Host {
    fn kernel_wireguard(&self) -> bool {
        let probe = "ip link add probe type wireguard 2>/dev/null && ip link del probe && echo yes";
        self.sh(&format!("{probe} || true")).contains("yes")
    }
}

#[test]
fn what_is_in_use_is_seen() {
    if unable() {
        return;
    }
    let (source, _destination) = hosts();
    let _socket = source.run(|| UdpSocket::bind("127.0.0.1:51822").unwrap());
    source.sh(
        "ip link add lmwg3 type bridge; ip route add 192.0.2.0/24 via 198.18.1.2 table 21004
         ip -6 rule add priority 1005 lookup main",
    );
    let in_use = source.run(|| in_use::gather(&[Index::try_from(9).unwrap()]).unwrap());
    let taken: Vec<_> = in_use
        .indexes
        .iter()
        .map(|(index, _)| index.get())
        .collect();
    assert_eq!(taken, [2, 3, 4, 5, 8, 9], "{:?}", in_use.indexes);
    assert!(in_use.ipv6);
    assert!(in_use.mark_conflicts.is_empty());
    for prefix in [
        "10.1.0.0/16",
        "198.18.1.0/24",
        "192.0.2.0/24",
        "2001:db8:1::/64",
    ] {
        let prefix: ipnet::IpNet = prefix.parse().unwrap();
        let found = in_use.prefixes.iter().any(|net| net.trunc() == prefix);
        assert!(found, "{prefix} in {:?}", in_use.prefixes);
    }
    assert!(in_use.prefixes.iter().all(|net| net.prefix_len() > 1));

    source.sh("nft add rule ip foreign c ct mark set 0x1");
    source.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
    let in_use = source.run(|| in_use::gather(&[]).unwrap());
    assert!(!in_use.ipv6);
    let message = in_use.allot().unwrap_err().to_string();
    assert!(message.contains("table ip foreign chain c"), "{message}");
}

#[test]
fn without_ipv6_a_tunnel_has_none() {
    if unable() {
        return;
    }
    let (source, destination) = hosts();
    source.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    let before = source.snapshot();
    let (here, there) = tunnel(&source, &destination);
    let here = prove(&source, here);
    assert!(
        !destination
            .sh("ip -6 addr show dev lmwg1")
            .contains("inet6 fd")
    );
    assert!(source.run(move || here.teardown().unwrap()));
    eventually("the keeper ends", TIMEOUT, || !source.has_keeper());
    assert_same(&before, &source.snapshot());
    destination.run(move || there.teardown().unwrap());
}

#[test]
fn quarantine_drops_everything_and_lifts() {
    if unable() {
        return;
    }
    let (inside, outside) = (Host::new(), Host::new());
    inside.connect("eth0", &outside, "eth0", 1);
    inside.sh("sysctl -qw net.ipv4.fwmark_reflect=1");
    let before = inside.snapshot();
    let listener = inside.run(|| TcpListener::bind("0.0.0.0:7000").unwrap());
    let try_all = || {
        let connects = |host: &Host, address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            host.run(move || {
                TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok()
            })
        };
        [
            connects(&outside, "198.18.1.1:7000"),
            connects(&inside, "127.0.0.1:7000"),
            inside.sh("ping -c1 -W1 198.18.1.2 >/dev/null 2>&1 && echo yes || true") == "yes\n",
            inside.sh("ping -6 -c1 -W1 2001:db8:1::2 >/dev/null 2>&1 && echo yes || true")
                == "yes\n",
        ]
    };
    assert_eq!(try_all(), [true; 4]);
    quarantine::apply(&inside.netns).unwrap();
    let start = Instant::now();
    quarantine::apply(&inside.netns).unwrap();
    println!("apply: {:?}", start.elapsed());
    assert_eq!(try_all(), [false; 4]);
    // CRIU's own packets pass (and, for this test, answers to them, which carry the mark too).
    let marked = "ping -m 49428 -c1 -W1 127.0.0.1 >/dev/null 2>&1 && echo yes || true";
    assert_eq!(inside.sh(marked), "yes\n");
    let start = Instant::now();
    quarantine::lift(&inside.netns).unwrap();
    println!("lift: {:?}", start.elapsed());
    quarantine::lift(&inside.netns).unwrap();
    assert_eq!(try_all(), [true; 4]);
    drop(listener);
    assert_same(&before, &inside.snapshot());
}

#[test]
fn a_prepared_quarantine_lets_all_pass_until_it_wakes() {
    if unable() {
        return;
    }
    let (inside, outside) = (Host::new(), Host::new());
    inside.connect("eth0", &outside, "eth0", 1);
    let before = inside.snapshot();
    let answers = || {
        let ping = "ping -c1 -W1 198.18.1.1 >/dev/null 2>&1 && echo yes || true";
        outside.sh(ping) == "yes\n"
    };
    // Twice, as after a crash.
    quarantine::prepare(&inside.netns).unwrap();
    quarantine::prepare(&inside.netns).unwrap();
    assert!(answers());
    let start = Instant::now();
    quarantine::wake(&inside.netns).unwrap();
    println!("wake: {:?}", start.elapsed());
    assert!(!answers());
    quarantine::lift(&inside.netns).unwrap();
    assert!(answers());
    assert_same(&before, &inside.snapshot());
}

#[test]
fn connections_that_are_restored_find_another_mtu() {
    if unable() {
        return;
    }
    let (inside, outside) = (Host::new(), Host::new());
    inside.connect("eth0", &outside, "eth0", 1);
    inside.sh("ip link set eth0 mtu 1280");
    let before = inside.snapshot();
    let mtus =
        || inside.sh("ip -o link | sed 's/.*: \\(lo\\|eth0\\)[@:].* mtu \\([0-9]*\\) .*/\\1 \\2/'");
    assert_eq!(mtus(), "lo 65536\neth0 1280\n");
    let own = mss::set_apart(&inside.netns).unwrap();
    assert_eq!(mtus(), "lo 65535\neth0 1281\n");
    let start = Instant::now();
    mss::put_back(&inside.netns, &own).unwrap();
    println!("put back: {:?}", start.elapsed());
    assert_same(&before, &inside.snapshot());
}

#[test]
fn held_packets_wait_and_go_in_order() {
    if unable() {
        return;
    }
    let (inside, outside) = (Host::new(), Host::new());
    inside.connect("eth0", &outside, "eth0", 1);
    let before = inside.snapshot();
    let socket = |host: &Host, address: &'static str| {
        let socket = host.run(move || UdpSocket::bind(address).unwrap());
        socket
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        socket
    };
    let (here, there) = (
        socket(&inside, "198.18.1.1:7000"),
        socket(&outside, "198.18.1.2:7000"),
    );
    here.connect("198.18.1.2:7000").unwrap();
    there.connect("198.18.1.1:7000").unwrap();
    let receive = |socket: &UdpSocket| {
        let mut number = [0; 4];
        socket
            .recv(&mut number)
            .ok()
            .map(|_| u32::from_be_bytes(number))
    };
    let send = |socket: &UdpSocket, numbers: std::ops::Range<u32>| {
        for number in numbers {
            socket.send(&number.to_be_bytes()).unwrap();
        }
    };

    let packets = quarantine::queue_packets(&inside.netns).unwrap();
    send(&there, 0..200);
    send(&here, 0..200);
    assert_eq!((receive(&here), receive(&there)), (None, None));
    let count = packets.count().unwrap().expect("the kernel counts them");
    assert!(count.held >= 400 && count.dropped == 0, "{count:?}");
    let start = Instant::now();
    packets.release();
    assert!(packets.wait_until_empty(TIMEOUT).unwrap());
    println!("release: {:?}", start.elapsed());
    for number in 0..200 {
        assert_eq!(receive(&here), Some(number));
        assert_eq!(receive(&there), Some(number));
    }
    // What comes after the release passes, also while the table goes.
    send(&there, 200..250);
    quarantine::open(&inside.netns).unwrap();
    send(&there, 250..300);
    assert!(packets.wait_until_empty(TIMEOUT).unwrap());
    quarantine::lift(&inside.netns).unwrap();
    drop(packets);
    send(&there, 300..350);
    for number in 200..350 {
        assert_eq!(receive(&here), Some(number));
    }
    assert_same(&before, &inside.snapshot());

    // Nobody is left to release them: they are dropped, not let through.
    drop(quarantine::queue_packets(&inside.netns).unwrap());
    send(&there, 350..360);
    assert_eq!(receive(&here), None);
    quarantine::lift(&inside.netns).unwrap();
    send(&there, 360..361);
    assert_eq!(receive(&here), Some(360));
}

#[test]
fn a_flood_does_not_fill_the_memory_with_packets_that_wait() {
    if unable() {
        return;
    }
    let (inside, outside) = (Host::new(), Host::new());
    inside.connect("eth0", &outside, "eth0", 1);
    let there = outside.run(|| UdpSocket::bind("198.18.1.2:7000").unwrap());
    there.connect("198.18.1.1:7000").unwrap();
    let packets = quarantine::queue_packets(&inside.netns).unwrap();
    for _ in 0..100_000 {
        there.send(&[0]).unwrap();
    }
    let waiting = inside.sh("awk '{ print $3 }' /proc/net/netfilter/nfnetlink_queue");
    let waiting: u32 = waiting
        .lines()
        .map(|line| line.parse::<u32>().unwrap())
        .sum();
    assert!(
        // The other queue has one or two, of the kernel's own.
        (MOST_PACKETS..MOST_PACKETS + 10).contains(&waiting),
        "{waiting} packets wait"
    );
    drop(packets);
    quarantine::lift(&inside.netns).unwrap();
}

#[test]
fn joined_datagrams_go_as_they_are_read() {
    if unable() {
        return;
    }
    let (inside, outside) = (Host::new(), Host::new());
    inside.connect("eth0", &outside, "eth0", 1);
    let here = inside.run(|| UdpSocket::bind("198.18.1.1:7000").unwrap());
    let there = outside.run(|| UdpSocket::bind("198.18.1.2:7000").unwrap());
    there.connect("198.18.1.1:7000").unwrap();
    here.set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    const DATAGRAM: usize = 16;
    const JOINED: usize = 64;
    setsockopt(&there, UdpGsoSegment, &(DATAGRAM as i32)).unwrap();

    let packets = quarantine::queue_packets(&inside.netns).unwrap();
    // Several times what the socket has room for.
    for number in 0..30 {
        there.send(&[number; JOINED * DATAGRAM]).unwrap();
    }
    packets.release();
    for number in 0..30 {
        for _ in 0..JOINED {
            let mut datagram = [0; 2 * DATAGRAM];
            assert_eq!(here.recv(&mut datagram).unwrap(), DATAGRAM);
            assert_eq!(datagram[0], number);
        }
    }
    assert!(packets.wait_until_empty(TIMEOUT).unwrap());
    quarantine::lift(&inside.netns).unwrap();
}

#[test]
fn a_namespace_that_is_not_there_is_said() {
    let path = Path::new("/run/netns/no-such-namespace");
    let error = netns::in_netns(path, || ()).unwrap_err().to_string();
    assert!(error.contains("no-such-namespace"), "{error}");
}
