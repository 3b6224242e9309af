//! Containers that wander between hosts at random, with flows of all kinds.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tests::{Fixture, Load, Migration, Setup, pause};

/// Environment variable with the number that makes a journey what it is.
const SEED: &str = "JOURNEY_SEED";

/// Those that have containers; clients are on `c`.
const HOSTS: [&str; 4] = ["a", "b", "d", "e"];

/// Pairs of hosts that send to each other: all.
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
    port: u16,
    clients: Vec<Load>,
}

impl Traveller {
    fn start(f: &Fixture, number: u16, host: &'static str) -> Self {
        let (name, port, own) = (format!("echo{number}"), 7000 + number, 50 + number);
        let options = format!(
            "--network dual --ip 10.77.0.{own} --ip6 fd77::{own} -p {port}:7000 -p {port}:7000/udp \
             localhost/echo --listen [::]:7000"
        );
        f.start(host, &name, &options);
        Traveller {
            name,
            host,
            port,
            clients: Vec::new(),
        }
    }

    /// Another client, of any kind, by way of the host where the container is now.
    fn meet_client(&mut self, f: &Fixture, rng: &mut StdRng) {
        let at = match rng.random() {
            true => f.at(self.host, self.port),
            false => f.at_ipv6(self.host, self.port),
        };
        let options: &[&str] = match rng.random() {
            true => &["--connections", "3"],
            false => &["--udp"],
        };
        println!("{} on {}: {at} {options:?}", self.name, self.host);
        self.clients.push(f.client("echo", &at, options));
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
    let images = HOSTS.map(|host| (host, &["echo"][..]));
    let f = Fixture::with(
        "m-journey",
        Setup {
            hosts: &["a", "b", "c", "d", "e"],
            servers: &HOSTS,
            pairs: &PAIRS,
            images: &images,
        },
    );
    let dual = "--ipv6 --subnet 10.77.0.0/24 --subnet fd77::/64";
    f.add_network(&HOSTS, "dual", dual);
    let before = f.look(&HOSTS);
    let errors = f.listen_for_errors();
    let mut travellers: Vec<_> = (0..rng.random_range(1..=3))
        .map(|number| Traveller::start(&f, number, HOSTS.choose(&mut rng).expect("hosts")))
        .collect();

    for _ in 0..rng.random_range(3..=6) {
        for traveller in &mut travellers {
            if traveller.clients.is_empty() || rng.random_bool(0.3) {
                traveller.meet_client(&f, &mut rng);
            }
        }
        pause(300);
        // One, or several at once.
        let movers = rng.random_range(1..=travellers.len());
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
            assert_eq!(migration.report["warnings"], serde_json::json!([]));
        }
    }
    pause(500);
    errors.assert_none();
    for traveller in travellers {
        let servers: Vec<_> = traveller
            .clients
            .into_iter()
            .map(|client| client.finish_whole()["servers"].clone())
            .collect();
        assert!(servers.windows(2).all(|w| w[0] == w[1]), "{servers:?}");
        f.sh(
            traveller.host,
            &format!("podman rm -ft0 {}", traveller.name),
        );
    }
    f.assert_as_before(&before);
}
