//! Containers that move between hosts at random, with flows of all kinds.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tests::{Fixture, Load, Migration, Setup, pause};

/// Environment variable with the seed that determines a journey.
const SEED: &str = "JOURNEY_SEED";

/// The hosts that have containers; the clients are on `c`.
const HOSTS: [&str; 4] = ["a", "b", "d", "e"];

/// Pairs of hosts that can send to each other: all.
const PAIRS: [(&str, &str); 12] = [
    ("a", "b"),
    ("a", "d"),
    ("a", "e"),
    ("b", "a"),
    ("b", "d"),
    ("b", "e"),
    ("d", "a"),
    ("d", "b"),
    ("d", "e"),
    ("e", "a"),
    ("e", "b"),
    ("e", "d"),
];

struct Traveller {
    name: String,
    host: &'static str,
    number: u16,
    port: u16,
    /// Talks to another traveller, at its own address.
    calls: bool,
    clients: Vec<Load>,
}

impl Traveller {
    /// Starts on a random host and calls those of the `others` that are there.
    fn start(f: &Fixture, number: u16, others: &[Traveller], rng: &mut StdRng) -> Self {
        let (name, port, own) = (format!("echo{number}"), 7000 + number, 50 + number);
        let mut hosts = HOSTS.to_vec();
        // More likely where others are.
        hosts.extend(others.iter().flat_map(|other| [other.host; 4]));
        let host = *hosts.choose(rng).expect("hosts");
        let callees: Vec<_> = others
            .iter()
            .filter(|other| other.host == host)
            .flat_map(|other| other.inside())
            .collect();
        let program = match callees.is_empty() {
            true => "echo".to_owned(),
            false => format!(
                "dial-out --keep tcp,udp,udp-unconnected {}",
                callees.join(" ")
            ),
        };
        let options = format!(
            "--network dual --ip 10.77.0.{own} --ip6 fd77::{own} -p {port}:7000 -p {port}:7000/udp \
             localhost/{program} --listen [::]:7000"
        );
        println!("{name} on {host}: {program}");
        f.start(host, &name, &options);
        // Otherwise the first client, or another traveller, could be refused.
        f.wait_for_port(host, &name, 'u', 7000);
        Traveller {
            name,
            host,
            number,
            port,
            calls: !callees.is_empty(),
            clients: Vec::new(),
        }
    }

    /// Its addresses within its network.
    fn inside(&self) -> [String; 2] {
        let own = 50 + self.number;
        [format!("10.77.0.{own}:7000"), format!("[fd77::{own}]:7000")]
    }

    /// Adds another client of any kind, through the host where the container is now.
    fn meet_client(&mut self, f: &Fixture, rng: &mut StdRng) {
        let [inside, inside_ipv6] = self.inside();
        let (from, at) = match rng.random_range(0..8) {
            0..=2 => ("c", f.at(self.host, self.port)),
            3..=4 => ("c", f.at_ipv6(self.host, self.port)),
            5 => (self.host, format!("127.0.0.1:{}", self.port)),
            6 => (self.host, inside),
            _ => (self.host, inside_ipv6),
        };
        let options: &[&str] = match rng.random() {
            true => &["--connections", "3"],
            false => &["--udp"],
        };
        println!(
            "{} on {}: {at} from {from} {options:?}",
            self.name, self.host
        );
        self.clients.push(f.client_on(from, "echo", &at, options));
    }

    fn elsewhere(&self, rng: &mut StdRng) -> &'static str {
        let others: Vec<_> = HOSTS
            .into_iter()
            .filter(|host| *host != self.host)
            .collect();
        others.choose(rng).expect("there are others")
    }
}

#[test]
fn end_with_every_flow_alive_and_every_host_clean() {
    if !lab::can_run() {
        return;
    }
    let seed: u64 = match std::env::var(SEED) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => rand::random(),
    };
    println!("to repeat this journey: {SEED}={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let images = HOSTS.map(|host| (host, &["echo", "dial-out"][..]));
    let f = Fixture::with(
        "m-journey",
        Setup {
            hosts: &["a", "b", "c", "d", "e"],
            servers: &HOSTS,
            pairs: &PAIRS,
            images: &images,
            services: false,
        },
    );
    let dual = "--ipv6 --subnet 10.77.0.0/24 --subnet fd77::/64";
    f.add_network(&HOSTS, "dual", dual);
    let before = f.look(&HOSTS);
    let errors = f.listen_for_errors();
    let mut travellers = Vec::new();
    for number in 0..rng.random_range(2..=3) {
        travellers.push(Traveller::start(&f, number, &travellers, &mut rng));
    }

    for _ in 0..rng.random_range(3..=6) {
        for traveller in &mut travellers {
            if traveller.clients.is_empty() || rng.random_bool(0.3) {
                traveller.meet_client(&f, &mut rng);
            }
        }
        pause(300);
        // Either one, or several at once unless they call each other.
        let movers = match travellers.iter().any(|traveller| traveller.calls) {
            true => 1,
            false => rng.random_range(1..=travellers.len()),
        };
        let first = rng.random_range(0..travellers.len());
        let mut jobs = Vec::new();
        for step in 0..movers {
            let at = (first + step) % travellers.len();
            let traveller = &mut travellers[at];
            let to = traveller.elsewhere(&mut rng);
            println!("{} from {} to {to}", traveller.name, traveller.host);
            jobs.push(f.begin(traveller.host, &traveller.name, to, &[]));
            traveller.host = to;
        }
        for job in jobs {
            let migration = Migration::of(job);
            migration.assert_moved();
            // Of two on one network the one that stays cannot be found by its name any more.
            let warnings = migration.warnings();
            let others = warnings.iter().filter(|w| !w.contains("names: "));
            assert_eq!(others.count(), 0, "{warnings:?}");
        }
    }
    pause(500);
    errors.assert_none();
    for traveller in &mut travellers {
        let servers: Vec<_> = traveller
            .clients
            .drain(..)
            .map(|client| client.finish_whole()["servers"].clone())
            .collect();
        assert!(servers.windows(2).all(|w| w[0] == w[1]), "{servers:?}");
    }
    // Callers end before those that answer them.
    for traveller in travellers.iter().rev() {
        let (host, name) = (traveller.host, &traveller.name);
        if traveller.calls {
            let unanswered = f.stop_dial_out(host, name);
            println!("{name}: {unanswered} datagrams were not answered");
        }
        f.sh(host, &format!("podman rm -ft0 {name}"));
    }
    f.assert_as_before(&before);
}
