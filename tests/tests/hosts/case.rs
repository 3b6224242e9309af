//! The cases.

use lab::{Distribution, Flavour};

use crate::world::{WEB, World};

/// Something that a user would do, between hosts of two distributions.
pub(crate) struct Case {
    pub(crate) hosts: [Distribution; 2],
    pub(crate) name: &'static str,
    /// Returns what a client saw.
    pub(crate) run: fn(&mut World) -> Result<String, String>,
}

/// Each has a name and what is done. Each begins and ends without a container.
const ALL: [(&str, Run); 12] = [
    ("what README.md says", use_it),
    ("there and back", there_and_back),
    ("after a reboot of the destination", |w| {
        after_reboot(w, "b")
    }),
    ("after a reboot of the source", |w| after_reboot(w, "a")),
    (
        "networkd restarts at the destination, then at the source",
        networkd_restarts,
    ),
    ("agent-server restarts after a container came", |w| {
        server_restarts(w, "systemctl restart agent-server")
    }),
    ("agent-server is killed after a container came", |w| {
        server_restarts(
            w,
            "systemctl kill --kill-whom=main --signal=KILL agent-server",
        )
    }),
    ("a container with a health check", health_check),
    ("a Quadlet service with a health check", quadlet),
    ("there and back of a container that is not root", |w| {
        started_with(w, "--user 1000:1000")
    }),
    (
        "a database as a Quadlet service, with a client, there and back",
        database,
    ),
    ("the other examples, one by one", examples),
];

type Run = fn(&mut World) -> Result<String, String>;

/// The first cases for all pairs of distributions; all cases between two hosts with Debian 13.
pub(crate) fn all() -> Vec<Case> {
    let (old, new) = (Distribution::TRIXIE, Distribution::FORKY);
    let runc = Distribution {
        flavour: Flavour::Runc,
        ..old
    };
    let pairs = [
        ([new, new], 3),
        ([old, new], 1),
        ([runc, runc], 2),
        ([old, old], ALL.len()),
    ];
    let cases = pairs.into_iter().flat_map(|(hosts, first)| {
        ALL.into_iter()
            .take(first)
            .map(move |(name, run)| Case { hosts, name, run })
    });
    cases.collect()
}

fn use_it(world: &mut World) -> Result<String, String> {
    world.do_on("a", WEB)?;
    let clients = world.clients("a")?;
    world.use_it("a", "b")?;
    world.is_on("b", "web")?;
    clients.finish()
}

fn there_and_back(world: &mut World) -> Result<String, String> {
    started_with(world, "")
}

fn started_with(world: &mut World, option: &str) -> Result<String, String> {
    world.do_on("a", &WEB.replace("run -d", &format!("run {option} -d")))?;
    let clients = world.clients("a")?;
    world.migrate("web", "a", "b")?;
    world.migrate("web", "b", "a")?;
    world.is_on("a", "web")?;
    clients.finish()
}

fn after_reboot(world: &mut World, host: &str) -> Result<String, String> {
    world.reboot(host)?;
    use_it(world)
}

fn networkd_restarts(world: &mut World) -> Result<String, String> {
    world.do_on("a", WEB)?;
    let clients = world.clients("a")?;
    world.migrate("web", "a", "b")?;
    for host in ["b", "a"] {
        world.do_on(host, "systemctl restart systemd-networkd")?;
        world.do_on(
            host,
            "/usr/lib/systemd/systemd-networkd-wait-online --timeout 300",
        )?;
    }
    clients.finish()
}

fn server_restarts(world: &mut World, how: &str) -> Result<String, String> {
    world.do_on("a", WEB)?;
    let clients = world.clients("a")?;
    world.migrate("web", "a", "b")?;
    let main = "systemctl show -P MainPID agent-server";
    let before = world.do_on("b", main)?;
    world.do_on("b", how)?;
    world.serves("b")?;
    if world.do_on("b", main)? == before {
        return Err("it was not restarted".to_owned());
    }
    world.is_on("b", "web")?;
    clients.finish()
}

/// A check every five seconds. The image has no shell.
const CHECK: &str = r#"--health-cmd '["/echo", "--help"]' --health-interval 5s"#;

fn health_check(world: &mut World) -> Result<String, String> {
    world.do_on("a", &WEB.replace("--name", &format!("{CHECK} --name")))?;
    let clients = world.clients("a")?;
    world.migrate("web", "a", "b")?;
    let timers = "systemctl list-timers --all --plain --no-legend | grep -c \"$(podman inspect -f '{{.Id}}' web)\" || true";
    if world.do_on("b", timers)? != "1" {
        return Err("no timer checks its health at the destination".to_owned());
    }
    clients.finish()
}

/// Starts a Quadlet service as in podman-systemd.unit(5), with these lines about its container.
fn service(container: &str) -> String {
    format!(
        r#"
mkdir -p /etc/containers/systemd
cat >/etc/containers/systemd/web.container <<'END'
[Container]
ContainerName=web
{container}

[Service]
Restart=always

[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl start web
"#
    )
}

const QUADLET: &str = r#"Image=localhost/echo
PublishPort=8080:7000
PublishPort=8080:7000/udp
HealthCmd=["/echo", "--help"]
HealthInterval=5s"#;

/// A service that becomes one of the destination's, and stops being one of the source's.
fn quadlet(world: &mut World) -> Result<String, String> {
    world.do_on("a", &service(QUADLET))?;
    let clients = world.clients("a")?;
    world.migrate("web", "a", "b")?;
    world.is_on("b", "web")?;
    let state = "systemctl is-active web || true";
    let (there, here) = (world.do_on("a", state)?, world.do_on("b", state)?);
    if (there.as_str(), here.as_str()) != ("inactive", "active") {
        return Err(format!(
            "web.service is {there} at the source, {here} at the destination"
        ));
    }
    let seen = clients.finish()?;
    world.do_on(
        "b",
        "systemctl restart web && systemctl stop web && systemctl start web",
    )?;
    world.reboot("b")?;
    world.is_on("b", "web")?;
    Ok(seen)
}

/// Its data is in a volume that has its own Quadlet file.
const VOLUME: &str = r#"
mkdir -p /etc/containers/systemd
printf '[Volume]\nVolumeName=web\n' >/etc/containers/systemd/web.volume
"#;

const DATABASE: &str = r#"Image=localhost/redis
PublishPort=8080:6379
Volume=web.volume:/data
HealthCmd=["/usr/bin/redis-cli", "ping"]
HealthInterval=10s"#;

/// A client increments a key in a database that moves there and back as a service. The image is sent.
fn database(world: &mut World) -> Result<String, String> {
    world.add_image("a", "redis")?;
    world.do_on("a", VOLUME)?;
    world.do_on("a", &service(DATABASE))?;
    world.healthy("a", "web")?;
    let client = world.database_client("a")?;
    for (from, to) in [("a", "b"), ("b", "a")] {
        world.migrate("web", from, to)?;
        world.is_on(to, "web")?;
        let state = "systemctl is-active web || true";
        let (there, here) = (world.do_on(from, state)?, world.do_on(to, state)?);
        if (there.as_str(), here.as_str()) != ("inactive", "active") {
            return Err(format!(
                "web.service is {there} where it was, {here} where it is"
            ));
        }
    }
    world.healthy("a", "web")?;
    client.finish()
}

/// The examples that need no client: their processes must run on, with whatever they have open.
fn examples(world: &mut World) -> Result<String, String> {
    let names = [
        "counter",
        "counter-file",
        "counter-open-file",
        "processes",
        "timers",
    ];
    for name in names {
        world.add_image("a", name)?;
        world.do_on(
            "a",
            &format!("podman run -d --name {name} localhost/{name}"),
        )?;
        world.migrate(name, "a", "b")?;
        world.is_on("b", name)?;
    }
    Ok(names.join(", "))
}
