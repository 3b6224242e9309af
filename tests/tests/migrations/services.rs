//! Between hosts with systemd and a distribution's defaults: crun, systemd's cgroups and scopes, the
//! journal, and commands typed after a login.

use std::time::Duration;

use lab::{Kind, Lab};
use serde_json::Value;
use tests::{Fixture, LOGIN, Load, eventually, pause};

/// A service from a Quadlet file, with a volume and a network that have Quadlet files of their own,
/// and a health check.
const WEB: [(&str, &str); 3] = [
    (
        "web.container",
        "[Unit]\nDescription=Echoes\n\
         [Container]\nImage=localhost/echo\nContainerName=web\n\
         PublishPort=7000:7000\nPublishPort=7000:7000/udp\n\
         Volume=web.volume:/data\nNetwork=web.network\n\
         HealthCmd=[\"/echo\",\"--help\"]\nHealthInterval=1s\n\
         [Service]\nRestart=always\n\
         [Install]\nWantedBy=multi-user.target\n",
    ),
    ("web.volume", "[Volume]\nVolumeName=web\n"),
    (
        "web.network",
        "[Network]\nNetworkName=web\nSubnet=10.77.0.0/24\n",
    ),
];

#[test]
fn there_and_back_with_the_defaults() {
    there_and_back("m-defaults", "", "crun", "/container");
}

#[test]
fn there_and_back_with_runc() {
    there_and_back("m-defaults-runc", "--runtime runc", "runc", "");
}

/// `below` is where the runtime puts the container, below the scope that Podman asks for.
fn there_and_back(lab: &str, options: &str, runtime: &str, below: &str) {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::services(lab, &["echo"]);
    let options = format!("{options} -p 7000:7000 -p 7000:7000/udp localhost/echo");
    let id = f.start("a", "echo", &options);
    let found = f.sh("a", "podman inspect -f '{{.OCIRuntime}}' echo");
    assert_eq!(found, runtime);
    let streams = f.client("echo", &f.at("a", 7000), &["--connections", "5"]);
    let datagrams = f.client("echo", &f.at("a", 7000), &["--udp"]);
    pause(300);
    let places = places(&f, "a", "echo");
    f.migrate("a", "echo", "b").assert_moved();

    // Where they would be if Podman had started it, and not in the agent's service.
    assert_eq!(self::places(&f, "b", "echo"), places);
    assert!(
        places[0].ends_with(&format!("libpod-{id}.scope{below}")),
        "{places:?}"
    );
    let keeper = f.sh(
        "b",
        "cat /proc/$(pgrep -f ^tunnel-keeper)/cgroup | tail -n 1",
    );
    assert!(keeper.contains("live-migration-tunnel-"), "{keeper}");

    // Nothing of it belongs to the agent's service, which ends in several ways and starts again.
    f.sh("b", "systemctl restart agent-server");
    f.sh("b", "systemctl kill --signal KILL agent-server");
    eventually(Duration::from_secs(30), || {
        let listens = f.sh("b", "ss -Hltn sport = :50051");
        (!listens.is_empty()).then_some(()).ok_or(f.server_log("b"))
    });
    f.sh(
        "b",
        "systemctl stop agent-server && systemctl start agent-server",
    );
    pause(500);
    f.migrate("b", "echo", "a").assert_moved();
    pause(500);
    streams.finish_whole();
    datagrams.finish_whole();
}

#[test]
fn a_service_moves_as_one() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::services("m-quadlet", &["echo"]);
    install(&f, "a");
    // Podman's part of what a service needs; the systemd files move with it.
    f.sh("b", "podman network create --subnet 10.77.0.0/24 web");
    let streams = f.client("echo", &f.at("a", 7000), &["--connections", "3"]);
    let datagrams = f.client("echo", &f.at("a", 7000), &["--udp"]);
    healthy(&f, "a");

    moves_as_a_service(&f, "a", "b");
    moves_as_a_service(&f, "b", "a");
    let whole = |client: Load| client.finish_whole();
    whole(streams);
    whole(datagrams);

    // systemd controls what runs, through the unit's own files.
    let id = f.sh("a", "podman inspect -f '{{.Id}}' web");
    f.sh("a", "systemctl restart web");
    let other = f.sh("a", "podman inspect -f '{{.Id}}' web");
    assert_ne!(id, other);
    f.sh("a", "podman kill web");
    eventually(Duration::from_secs(30), || {
        let now = f.host("a").sh("podman inspect -f '{{.Id}}' web");
        let now = now.map_err(|e| e.to_string())?;
        (now != other)
            .then_some(())
            .ok_or("the same still".to_owned())
    });
    f.sh("a", "systemctl stop web");
    assert!(f.containers("a").is_empty(), "{:?}", f.containers("a"));
}

/// Installs the Quadlet files on a host and starts the service.
fn install(f: &Fixture, host: &str) {
    for (name, text) in WEB {
        let path = format!("/etc/containers/systemd/{name}");
        f.host(host).write(&path, text).expect("it can be written");
    }
    f.sh(host, "systemctl daemon-reload && systemctl start web");
}

/// Moves it, and looks at both ends.
fn moves_as_a_service(f: &Fixture, from: &str, to: &str) {
    let before = places(f, from, "web");
    let migration = f.migrate(from, "web", to);
    migration.assert_moved();
    assert!(
        migration.report["notes"]
            .to_string()
            .contains("web.service"),
        "{:#}",
        migration.report
    );

    assert_eq!(show(f, from, "ActiveState"), "inactive");
    assert_eq!(show(f, from, "Result"), "success");
    assert_eq!(show(f, from, "UnitFileState"), "masked");
    let timers = f.sh(
        from,
        "systemctl list-units --all --no-legend '*.timer' | grep podman || true",
    );
    assert!(timers.is_empty(), "{timers}");

    assert_eq!(places(f, to, "web"), before);
    assert_eq!(show(f, to, "ActiveState"), "active");
    let conmon = f.sh(to, "podman inspect -f '{{.State.ConmonPid}}' web");
    assert_eq!(show(f, to, "MainPID"), conmon);
    assert_eq!(show(f, to, "Restart"), "always");
    assert_eq!(show(f, to, "UnitFileState"), "generated");
    assert!(show(f, to, "ExecStart").contains("podman run"));
    let left = f.sh(
        to,
        "ls /run/systemd/system/*.d /var/lib/live-migration/services 2>&1 || true",
    );
    assert!(
        !left.contains("live-migration.conf") && !left.contains("web.service"),
        "{left}"
    );
    healthy(f, to);
    // Nothing starts a second copy.
    pause(2000);
    assert!(f.containers(from).is_empty(), "{:?}", f.containers(from));
    assert_eq!(show(f, from, "ActiveState"), "inactive");
}

fn show(f: &Fixture, host: &str, property: &str) -> String {
    f.sh(
        host,
        &format!("systemctl show --value --property {property} web.service"),
    )
}

/// Waits until a health check that began after this call has passed.
fn healthy(f: &Fixture, host: &str) {
    let log = || -> Value {
        let health = f.sh(host, "podman inspect -f '{{json .State.Health}}' web");
        serde_json::from_str(&health).expect("Podman prints JSON")
    };
    let last = |health: &Value| health["Log"].as_array().and_then(|log| log.last().cloned());
    let before = last(&log());
    eventually(Duration::from_secs(30), || {
        let now = log();
        let good = now["Status"] == "healthy" && now["FailingStreak"] == 0 && last(&now) != before;
        good.then_some(()).ok_or_else(|| now.to_string())
    });
}

/// The cgroups of the container's first process and of its conmon.
fn places(f: &Fixture, host: &str, container: &str) -> Vec<String> {
    let show = |field: &str| {
        let pid = format!("podman inspect -f '{{{{.State.{field}}}}}' {container}");
        f.sh(host, &format!("tail -n 1 /proc/$({pid})/cgroup"))
    };
    vec![show("Pid"), show("ConmonPid")]
}

#[test]
fn a_migration_that_fails_leaves_the_service_as_it_was() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::services("m-quadlet-fail", &["echo"]);
    install(&f, "a");
    f.sh("b", "podman network create --subnet 10.77.0.0/24 web");
    healthy(&f, "a");
    let (before, id) = (
        places(&f, "a", "web"),
        f.sh("a", "podman inspect -f '{{.Id}}' web"),
    );
    let client = f.client("echo", &f.at("a", 7000), &[]);

    // A CRIU that passes the checks, but does nothing when it is to restore.
    f.sh("b", "mv /usr/sbin/criu /usr/sbin/criu.real
               printf '#!/bin/sh\\n[ \"$1\" = swrk ] && exit 1\\nexec criu.real \"$@\"\\n' >/usr/sbin/criu
               chmod +x /usr/sbin/criu");
    let migration = f.migrate("a", "web", "b");
    assert_eq!(migration.code(), 1, "{}", migration.output);

    assert_eq!(show(&f, "a", "ActiveState"), "active");
    assert_eq!(show(&f, "a", "Restart"), "always");
    assert_eq!(f.sh("a", "podman inspect -f '{{.Id}}' web"), id);
    assert_eq!(places(&f, "a", "web"), before);
    healthy(&f, "a");
    client.finish_whole();
    let left = f.sh("a", "ls /run/systemd/system/*.d 2>&1 || true");
    assert!(!left.contains("live-migration.conf"), "{left}");
    // Nothing of it is left at the destination.
    assert!(f.containers("b").is_empty(), "{:?}", f.containers("b"));
    let files = f.sh(
        "b",
        "ls /etc/containers/systemd /run/systemd/system 2>&1 || true",
    );
    assert!(!files.contains("web"), "{files}");
    let state = f.sh(
        "b",
        "systemctl show --value --property LoadState web.service",
    );
    assert_eq!(state, "not-found");
}

#[test]
fn an_agent_that_is_killed_leaves_the_service_to_the_next() {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::fragile_services("m-quadlet-kill", &["echo"]);
    install(&f, "a");
    f.sh("b", "podman network create --subnet 10.77.0.0/24 web");
    let client = f.client("echo", &f.at("a", 7000), &[]);

    // Held and frozen, and nobody is left to release it.
    let killed = |place: &str| {
        let failpoints = format!("client.phase.{place}=return(kill)");
        let job = f.begin_with("a", "web", "b", &[], &[("FAILPOINTS", &failpoints)]);
        let output = job.wait(Duration::from_secs(60));
        assert_eq!(output.status.code(), Some(137), "{output}");
    };
    killed("dump");
    assert_eq!(show(&f, "a", "Restart"), "no");
    f.sh("a", "agent-client recover");
    assert_eq!(show(&f, "a", "Restart"), "always");
    assert_eq!(show(&f, "a", "UnitFileState"), "generated");
    healthy(&f, "a");
    f.sh("b", "systemctl restart agent-server");
    f.wait_for_service("b");

    // The destination has taken over, and the source does not know. A boot would not start it there
    // again.
    f.serve_with("b", &[("FAILPOINTS", "server.commit.after=1*return(kill)")]);
    f.migrate("a", "web", "b");
    f.wait_for_service("b");
    f.sh("a", "agent-client recover");
    assert_eq!(show(&f, "a", "ActiveState"), "inactive");
    assert_eq!(show(&f, "a", "UnitFileState"), "masked");
    assert!(f.containers("a").is_empty(), "{:?}", f.containers("a"));
    eventually(Duration::from_secs(30), || {
        match show(&f, "b", "Restart").as_str() {
            "always" => Ok(()),
            _ => Err(f.server_log("b")),
        }
    });
    assert_eq!(show(&f, "b", "ActiveState"), "active");
    healthy(&f, "b");
    client.finish_whole();
}

#[test]
fn a_boot_brings_the_service_back_where_it_has_gone() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::services("m-quadlet-boot", &["echo"]);
    install(&f, "a");
    f.sh("b", "podman network create --subnet 10.77.0.0/24 web");
    f.migrate("a", "web", "b").assert_moved();
    let id = f.sh("b", "podman inspect -f '{{.Id}}' web");
    for host in ["a", "b"] {
        f.sh(host, "sync");
        f.lab().power_off(host).expect("it can be killed");
        let again = Lab::up_as(f.lab().name(), &[(host, Kind::Services)]);
        again.expect("it boots again").keep();
    }
    eventually(Duration::from_secs(60), || {
        let now = f.host("b").sh("podman inspect -f '{{.Id}}' web");
        let now = now.map_err(|e| e.to_string())?;
        (now != id).then_some(()).ok_or("the old one".to_owned())
    });
    assert_eq!(show(&f, "b", "ActiveState"), "active");
    assert_eq!(show(&f, "a", "UnitFileState"), "masked");
    assert!(f.containers("a").is_empty(), "{:?}", f.containers("a"));
}

#[test]
fn a_service_that_is_in_the_way_is_refused() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::services("m-quadlet-no", &["echo"]);
    for host in ["a", "b"] {
        for (name, text) in WEB {
            let text = text.replace("Echoes", host);
            let path = format!("/etc/containers/systemd/{name}");
            f.host(host).write(&path, text).expect("it can be written");
        }
    }
    f.sh("a", "systemctl daemon-reload && systemctl start web");
    f.sh("b", "podman network create --subnet 10.77.0.0/24 web");
    let refused = f.migrate("a", "web", "b");
    refused.assert_failed(4, &["web.service", "/etc/containers/systemd/web.container"]);
    f.sh(
        "b",
        "sed -i s/=b$/=a/ /etc/containers/systemd/web.container
               systemctl daemon-reload && systemctl mask -q web",
    );
    let refused = f.migrate("a", "web", "b");
    refused.assert_failed(4, &["masked", "systemctl unmask web.service"]);
    assert_eq!(show(&f, "a", "ActiveState"), "active");
    // `check` says the same, and a login's environment makes no difference to it.
    let check = [&LOGIN[..], &["agent-client", "check", "web", "--to", "b"]].concat();
    let checked = f.run("a", &check);
    assert!(checked.stdout.contains("masked"), "{checked}");
}
