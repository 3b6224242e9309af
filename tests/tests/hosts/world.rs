//! Two hosts, set up as README.md says.

use std::cell::Cell;
use std::fmt::Write;
use std::time::Duration;

use lab::{Distribution, Kind, Lab};
use serde_json::Value;
use tests::{Fixture, Job, Load, eventually};

use crate::readme::{self, Place};

/// A limit for what takes some time on a namespace host; here it is a multiple of that.
const LONG: Duration = Duration::from_secs(45);

/// The container of most cases, and how it is started.
pub(crate) const WEB: &str =
    "podman run -d --name web -p 8080:7000 -p 8080:7000/udp localhost/echo";

/// Two hosts, `a` and `b`, either of which can send to the other.
pub(crate) struct World {
    f: Fixture,
    kinds: [Distribution; 2],
    /// How long the container was frozen in each migration since this was last asked.
    frozen: Cell<Vec<u64>>,
}

/// A client's connections: some over TCP, one over UDP.
pub(crate) struct Clients {
    streams: Load,
    datagrams: Load,
}

/// A client of a database.
pub(crate) struct DatabaseClient(Load);

impl DatabaseClient {
    /// Ends it. Every command must have been answered exactly once.
    pub(crate) fn finish(self) -> Result<String, String> {
        let seen = self.0.finish();
        if seen["ok"] != true {
            return Err(seen.to_string());
        }
        Ok(format!(
            "{} of {} answers, stall {:.0} ms",
            seen["answers"],
            seen["answers"],
            seen["stall_ms"].as_f64().unwrap_or(f64::NAN)
        ))
    }
}

impl World {
    /// Boots the hosts and, in both directions, does everything that README.md says before the
    /// container.
    pub(crate) fn new(kinds: [Distribution; 2]) -> Self {
        let [a, b] = kinds;
        // A lab's name has to be short.
        let short = |kind: Distribution| -> String {
            let name = kind.to_string();
            name.split('-').map(|word| &word[..2]).collect()
        };
        let name = format!("h-{}-{}", short(a), short(b));
        let world = Self {
            f: Fixture::bare(&name, a, b, &["echo"]),
            kinds,
            frozen: Cell::default(),
        };
        world.follow("a", "b");
        world.follow("b", "a");
        world
    }

    /// Runs README.md's commands up to the pairing.
    fn follow(&self, source: &str, destination: &str) {
        let mut token = String::new();
        for line in readme::use_it() {
            let command = fill_in(&line.command, destination, &token);
            match line.place {
                // Whoever made the hosts has already built these programs.
                Place::Workshop => assert!(command.starts_with("cargo build "), "{command}"),
                Place::Source if about_web(&command) => {}
                Place::Source => drop(self.f.sh(source, &command)),
                Place::Destination => {
                    let said = self.f.sh(destination, &command);
                    if command == "agent-server invite" {
                        token = said;
                    }
                }
            }
        }
        assert!(!token.is_empty(), "README.md has no `agent-server invite`");
    }

    /// Runs README.md's commands about the container: all those after the pairing.
    pub(crate) fn use_it(&self, source: &str, destination: &str) -> Result<(), String> {
        let mut migrated = false;
        for line in readme::use_it() {
            let command = fill_in(&line.command, destination, "");
            if line.place != Place::Source || !about_web(&command) {
                continue;
            }
            if command.starts_with("agent-client migrate ") {
                self.migrate_by(source, &command)?;
                migrated = true;
            } else {
                self.do_on(source, &command)?;
            }
        }
        migrated
            .then_some(())
            .ok_or_else(|| "README.md migrates nothing".to_owned())
    }

    pub(crate) fn migrate(&self, container: &str, from: &str, to: &str) -> Result<(), String> {
        self.migrate_by(from, &format!("agent-client migrate {container} --to {to}"))
    }

    /// Runs a `migrate` command; nobody is there to answer questions.
    fn migrate_by(&self, source: &str, command: &str) -> Result<(), String> {
        let script = format!("exec {command} --yes --format json");
        let mut job = Job::start(self.f.host(source), &["sh", "-ec", &script]);
        // A migration that does not end is a result like any other.
        let ended = attempt(|| {
            eventually(LONG, || {
                let ended = job.ended().is_some();
                ended.then_some(()).ok_or_else(|| job.stderr())
            });
        });
        if let Err(why) = ended {
            return Err(format!("does not end: {why}"));
        }
        let output = job.wait(LONG);
        let report: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        if !output.status.success() {
            let code = output.status.code().unwrap_or(-1);
            let outcome = report["outcome"].as_str().unwrap_or("ended");
            let why = report["error"].as_str().unwrap_or(output.stderr.trim());
            let freeze = report["freeze_ms"].as_u64();
            let freeze = freeze.map_or(String::new(), |ms| format!(" after {ms} ms of freeze"));
            return Err(format!("{outcome} (exit status {code}){freeze}: {why}"));
        }
        let mut frozen = self.frozen.take();
        frozen.extend(report["freeze_ms"].as_u64());
        self.frozen.set(frozen);
        println!("moved: {report}");
        Ok(())
    }

    /// How long the container was frozen in each migration since this was last asked.
    pub(crate) fn frozen(&self) -> Vec<u64> {
        self.frozen.take()
    }

    /// Runs a script; if it fails, the error contains what it printed.
    pub(crate) fn do_on(&self, host: &str, script: &str) -> Result<String, String> {
        let output = attempt(|| Job::start(self.f.host(host), &["sh", "-ec", script]).wait(LONG))?;
        if output.status.success() {
            return Ok(output.stdout.trim_end().to_owned());
        }
        Err(format!("`{script}` on {host}: {output}"))
    }

    /// Opens a client's connections to the published port of a host.
    pub(crate) fn clients(&self, host: &str) -> Result<Clients, String> {
        let target = self.f.at(host, 8080);
        attempt(|| Clients {
            streams: self.f.client("echo", &target, &["--connections", "3"]),
            datagrams: self.f.client("echo", &target, &["--udp"]),
        })
    }

    /// Loads the image of one more example.
    pub(crate) fn add_image(&self, host: &str, image: &str) -> Result<(), String> {
        attempt(|| self.f.add_image(host, image))
    }

    /// Opens a client's connection to the database at the published port of a host.
    pub(crate) fn database_client(&self, host: &str) -> Result<DatabaseClient, String> {
        let target = self.f.at(host, 8080);
        attempt(|| DatabaseClient(self.f.client("redis", &target, &[])))
    }

    /// Waits until a health check of the container that began after this call has passed.
    pub(crate) fn healthy(&self, host: &str, container: &str) -> Result<(), String> {
        let ask = format!("podman inspect -f '{{{{json .State.Health}}}}' {container}");
        let last = |health: &Value| health["Log"].as_array().and_then(|log| log.last().cloned());
        let parse = |text: String| -> Value { serde_json::from_str(&text).unwrap_or_default() };
        let before = last(&parse(self.do_on(host, &ask)?));
        attempt(|| {
            eventually(LONG, || {
                let now = parse(self.do_on(host, &ask)?);
                let good = now["Status"] == "healthy" && last(&now) != before;
                good.then_some(()).ok_or_else(|| now.to_string())
            });
        })
    }

    /// Asks the host to reboot, which ends the emulator, and boots it again.
    pub(crate) fn reboot(&self, host: &str) -> Result<(), String> {
        // The command may not live long enough to report.
        let _ = Job::start(self.f.host(host), &["systemctl", "reboot"]).wait(LONG);
        attempt(|| {
            eventually(LONG, || match self.f.host(host).init() {
                None => Ok(()),
                Some(_) => Err(format!("{host} does not go down")),
            });
        })?;
        let kind = self.kinds[usize::from(host == "b")];
        let lab = Lab::up_as(self.f.lab().name(), &[(host, Kind::Systemd(kind))]);
        lab.map_err(|e| format!("{e:#}"))?.keep();
        self.serves(host)
    }

    /// Waits until the service of a host listens.
    pub(crate) fn serves(&self, host: &str) -> Result<(), String> {
        attempt(|| {
            eventually(LONG, || {
                let sockets = self.f.host(host).sh("ss -Hltn sport = :50051");
                let sockets = sockets.map_err(|e| e.to_string())?;
                let listens = !sockets.is_empty();
                listens.then_some(()).ok_or_else(|| self.f.server_log(host))
            });
        })
    }

    /// Checks that a container runs on one of the hosts and is not on the other.
    pub(crate) fn is_on(&self, host: &str, container: &str) -> Result<(), String> {
        let other = if host == "a" { "b" } else { "a" };
        let list = "podman ps -a --format '{{.Names}} {{.State}}'";
        let (here, there) = (self.do_on(host, list)?, self.do_on(other, list)?);
        let runs = here
            .lines()
            .any(|line| line == format!("{container} running"));
        let gone = there
            .lines()
            .all(|line| !line.starts_with(&format!("{container} ")));
        (runs && gone)
            .then_some(())
            .ok_or_else(|| format!("on {host}: {here}; on {other}: {there}"))
    }

    /// Removes all containers from both hosts.
    pub(crate) fn tidy(&self) -> Result<(), String> {
        for host in ["a", "b"] {
            self.do_on(
                host,
                "rm -f /etc/containers/systemd/web.*
                 systemctl stop web 2>/dev/null || true
                 systemctl unmask --quiet web
                 systemctl daemon-reload
                 podman rm -ft0 --all
                 podman volume rm --all --force",
            )?;
        }
        Ok(())
    }

    /// Prints what the hosts say about a case that failed.
    pub(crate) fn tell(&self) {
        for host in ["a", "b"] {
            let log = "journalctl --no-pager --boot --priority warning --lines 40 || true
                systemctl --failed --plain --no-legend || true";
            println!("on {host}:\n{}", self.f.server_log(host));
            println!("{}", self.do_on(host, log).unwrap_or_else(|e| e));
        }
    }

    /// The versions of everything that takes part in a restore, on the host `a` or `b`.
    pub(crate) fn versions(&self, host: &str) -> String {
        let ask = "podman --version | cut -d ' ' -f 3
            podman info -f '{{.Host.OCIRuntime.Name}}'
            podman info -f '{{.Host.OCIRuntime.Version}}' | sed -n '1s/.* //p'
            criu --version | sed -n 's/^Version: //p'
            uname -r
            systemctl --version | sed -n '1s/^systemd \\([^ ]*\\).*/\\1/p'";
        let versions = self.do_on(host, ask).unwrap_or_default();
        let mut row = String::new();
        for version in versions.lines() {
            let _ = write!(row, " {version} |");
        }
        row
    }
}

impl Clients {
    /// Ends them. Everything sent over TCP must be whole, and no datagram may have been answered by
    /// another server.
    pub(crate) fn finish(self) -> Result<String, String> {
        let (streams, datagrams) = (self.streams.finish(), self.datagrams.finish());
        let told = format!(
            "{} of 3 connections, {} of {} datagrams, stall {:.0} ms",
            if streams["ok"] == true { 3 } else { 0 },
            datagrams["received"],
            datagrams["sent"],
            streams["stall_ms"].as_f64().unwrap_or(f64::NAN),
        );
        let whole = streams["ok"] == true && datagrams["ok"] == true;
        if whole {
            Ok(told)
        } else {
            Err(format!("{told}: {streams} {datagrams}"))
        }
    }
}

/// Whether a command of README.md is about the container.
fn about_web(command: &str) -> bool {
    command.split(' ').any(|word| word == "web")
}

fn fill_in(command: &str, destination: &str, token: &str) -> String {
    command
        .replace("destination.example", destination)
        .replace("TOKEN", token)
}

/// Turns a panic into an error, so that the next case still runs.
pub(crate) fn attempt<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default()
    })
}
