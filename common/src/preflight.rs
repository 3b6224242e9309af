//! Could this container move? Pure rules over facts; the gathering is done by the agents.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::container::ContainerFacts;
use crate::container::facts::PublishedPort;
use crate::container::init::InitProgram;
use crate::host::{HostFacts, version_numbers};
use crate::net::forward::Obstacle;

/// Oldest CRIU known to work: earlier ones fail on kernels since 6.15 (vDSO layout).
const OLDEST_CRIU: (u32, u32, u32) = (4, 0, 0);

/// Oldest Podman known to work.
const OLDEST_PODMAN: (u32, u32, u32) = (4, 4, 0);

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What, in a word or two.
    pub name: String,
    /// Where it was looked at.
    pub host: Side,
    /// Whether it holds.
    pub verdict: Verdict,
    /// What was found; for a failure, also what to do about it.
    pub detail: String,
}

/// One of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The host the container runs on.
    Source,
    /// The host it is to run on.
    Destination,
}

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Holds.
    Ok,
    /// Holds, with something the operator should know.
    Warning,
    /// Does not hold: the container cannot move.
    Failed,
}

/// What the destination found out about itself for this container.
#[derive(Debug, Clone, Default)]
pub struct DestinationFacts {
    /// Whether the image is in its store.
    pub image_present: bool,
    /// Whether it has a container of this id.
    pub id_taken: bool,
    /// Whether it has a container of this name.
    pub name_taken: bool,
    /// Driver and subnets of each of the container's networks that it has.
    pub networks: BTreeMap<String, (String, Vec<IpNet>)>,
    /// Addresses of its own running containers, by container name.
    pub addresses: Vec<(String, Vec<IpAddr>)>,
    /// Published ports of the container that cannot be bound, with the reason.
    pub busy_ports: Vec<(PublishedPort, String)>,
    /// Volumes of the container that exist already.
    pub volumes: Vec<String>,
    /// What it has in the place of the container's [`ContainerFacts::init`].
    pub init: Option<InitProgram>,
    /// Free space for containers, bytes.
    pub free_bytes: u64,
}

struct Checks {
    host: Side,
    found: Vec<Check>,
}

impl Checks {
    fn add(&mut self, name: &str, verdict: Verdict, detail: impl Into<String>) {
        self.found.push(Check {
            name: name.to_owned(),
            host: self.host,
            verdict,
            detail: detail.into(),
        });
    }

    fn expect(&mut self, name: &str, holds: bool, found: impl Into<String>, advice: &str) {
        let found = found.into();
        if holds {
            self.add(name, Verdict::Ok, found);
        } else {
            self.add(name, Verdict::Failed, format!("{found}: {advice}"));
        }
    }
}

/// Checks that need only the source.
pub fn source(container: &ContainerFacts, host: &HostFacts) -> Vec<Check> {
    let mut checks = Checks {
        host: Side::Source,
        found: Vec::new(),
    };
    programs(&mut checks, host, &container.runtime);
    checks.expect(
        "state",
        container.state == "running",
        container.state.clone(),
        match container.state.as_str() {
            "paused" => "unpause it first (`podman unpause`)",
            _ => "only a running container can move live; start it, or copy a stopped one with `podman container export` and `import`",
        },
    );
    if container.user_namespace {
        checks.add(
            "users",
            Verdict::Failed,
            "it has users of its own (--userns, --uidmap, --gidmap): Podman cannot restore a network for \
             such a container; start it without",
        );
    }
    checks.expect(
        "pod",
        container.pod.is_none(),
        match &container.pod {
            None => "not in a pod".into(),
            Some(pod) => format!("in pod {}", short(pod)),
        },
        "a container of a pod cannot move alone; pods are not supported",
    );
    checks.expect(
        "namespaces",
        container.dependencies.is_empty(),
        if container.dependencies.is_empty() {
            "its own".to_owned()
        } else {
            format!("shared with {}", container.dependencies.join(", "))
        },
        "containers that share namespaces with others cannot move",
    );
    checks.expect(
        "exec sessions",
        container.exec_sessions == 0,
        container.exec_sessions.to_string(),
        "an exec session cannot move: end it first",
    );
    checks.expect(
        "terminal",
        !container.terminal,
        if container.terminal {
            "attached (-t)"
        } else {
            "none"
        },
        "CRIU cannot carry a container's terminal: run it without -t",
    );
    checks.expect(
        "devices",
        container.devices.is_empty(),
        list_or_none(&container.devices),
        "host devices do not exist elsewhere",
    );
    checks.expect(
        "bind mounts",
        container.bind_mounts.is_empty(),
        list_or_none(&container.bind_mounts),
        "host directories stay behind; use named volumes, which move along",
    );
    checks.expect(
        "root file system",
        container.overlay,
        if container.overlay {
            "overlay"
        } else {
            "not an overlay"
        },
        "only containers made from an image on overlay storage can move",
    );
    let drivers: Vec<&str> = container
        .networks
        .iter()
        .map(|n| n.driver.as_str())
        .collect();
    let bridged = container.network_mode == "none" || container.network_mode == "bridge";
    checks.expect(
        "network mode",
        bridged && drivers.iter().all(|d| *d == "bridge"),
        if drivers.is_empty() {
            container.network_mode.clone()
        } else {
            format!("{} ({})", container.network_mode, drivers.join(", "))
        },
        "only bridge networks can move: the addresses of others belong to the host",
    );
    for volume in &container.volumes {
        let shared = !volume.shared_with.is_empty();
        checks.expect(
            "volume",
            volume.driver == "local" && volume.options.is_empty() && !shared,
            if shared {
                format!(
                    "{} is also used by {}",
                    volume.name,
                    volume
                        .shared_with
                        .iter()
                        .map(|id| short(id))
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            } else {
                format!("{} ({})", volume.name, volume.driver)
            },
            "only local volumes without options, used by this container alone, can move",
        );
    }
    checks.expect(
        "image",
        container.image_bytes > 0,
        if container.image_bytes > 0 {
            container.image_name.clone()
        } else {
            format!("{} is not in the local store", container.image_name)
        },
        "pull it here or there first, it cannot be sent",
    );
    checks.found
}

/// Checks that the destination makes.
pub fn destination(
    container: &ContainerFacts,
    source: &HostFacts,
    host: &HostFacts,
    facts: &DestinationFacts,
) -> Vec<Check> {
    let mut checks = Checks {
        host: Side::Destination,
        found: Vec::new(),
    };
    programs(&mut checks, host, &container.runtime);
    checks.expect(
        "architecture",
        source.architecture == host.architecture,
        format!("{} to {}", source.architecture, host.architecture),
        "memory images do not move between architectures",
    );
    if let Some(init) = &container.init {
        checks.expect(
            "init program",
            facts.init.as_ref() == Some(init),
            match &facts.init {
                Some(here) if here == init => init.path.display().to_string(),
                Some(_) => format!("{} is another build", init.path.display()),
                None => format!("there is no {}", init.path.display()),
            },
            "the container runs from the source's (--init), so have the same version of its package on \
             both hosts",
        );
    }
    let missing: Vec<&str> = source
        .cpu_flags
        .difference(&host.cpu_flags)
        .map(String::as_str)
        .collect();
    checks.expect(
        "CPU features",
        missing.is_empty(),
        if missing.is_empty() {
            format!("all {} of the source", source.cpu_flags.len())
        } else {
            format!("lacks {}", missing.join(" "))
        },
        "a process that found these features at the source would crash here",
    );
    if (source.podman.as_deref(), source.criu.as_deref())
        != (host.podman.as_deref(), host.criu.as_deref())
    {
        let version = |v: &Option<String>| v.clone().unwrap_or_else(|| "none".into());
        checks.add(
            "same versions",
            Verdict::Warning,
            format!(
                "podman {} to {}, criu {} to {}",
                version(&source.podman),
                version(&host.podman),
                version(&source.criu),
                version(&host.criu)
            ),
        );
    }
    checks.expect(
        "container id",
        !facts.id_taken,
        if facts.id_taken { "taken" } else { "free" },
        "a container of this id exists here; remove it (`podman rm`)",
    );
    checks.expect(
        "container name",
        !facts.name_taken,
        format!(
            "{} is {}",
            container.name,
            if facts.name_taken { "taken" } else { "free" }
        ),
        "rename or remove the one here (`podman rename`, `podman rm`)",
    );
    for network in &container.networks {
        match facts.networks.get(&network.name) {
            None => checks.add(
                "network",
                Verdict::Failed,
                format!(
                    "there is no network {}: create it with `podman network create{} {}`",
                    network.name,
                    network
                        .subnets
                        .iter()
                        .map(|s| format!(" --subnet {s}"))
                        .collect::<String>(),
                    network.name
                ),
            ),
            Some((_, subnets)) => checks.expect(
                "network",
                network.addresses.iter().all(|a| subnets.iter().any(|s| s.contains(a))),
                format!("{} {}", network.name, join(subnets)),
                &format!(
                    "the container's addresses ({}) must be in the network of the same name; create it with the source's subnets ({})",
                    join(&network.addresses),
                    join(&network.subnets)
                ),
            ),
        }
        for address in &network.addresses {
            let holder = facts
                .addresses
                .iter()
                .find(|(_, addresses)| addresses.contains(address));
            checks.expect(
                "address",
                holder.is_none(),
                match holder {
                    None => format!("{address} is free"),
                    Some((name, _)) => format!("{address} is used by container {name}"),
                },
                "stop that container, or move it to another address",
            );
        }
    }
    for (port, reason) in &facts.busy_ports {
        checks.add(
            "port",
            Verdict::Failed,
            format!("{port} cannot be published here: {reason}"),
        );
    }
    if facts.busy_ports.is_empty() && !container.ports.is_empty() {
        checks.add(
            "ports",
            Verdict::Ok,
            format!("{} free", join(&container.ports)),
        );
    }
    for volume in &container.volumes {
        let taken = facts.volumes.contains(&volume.name);
        checks.expect(
            "volume name",
            !taken,
            format!(
                "{} is {}",
                volume.name,
                if taken { "taken" } else { "free" }
            ),
            "a volume of this name exists here and is not overwritten; remove or rename it",
        );
    }
    checks.add(
        "image present",
        Verdict::Ok,
        if facts.image_present {
            container.image_name.clone()
        } else {
            format!(
                "no; will be sent ({})",
                crate::units::bytes(container.image_bytes)
            )
        },
    );
    // The image exists up to twice while it is loaded, memory once as images.
    let image = if facts.image_present {
        0
    } else {
        2 * container.image_bytes
    };
    let needed = container.memory_bytes + image + (64 << 20);
    checks.expect(
        "disk space",
        facts.free_bytes >= needed,
        format!(
            "{} free, about {} needed",
            crate::units::bytes(facts.free_bytes),
            crate::units::bytes(needed)
        ),
        "make room where Podman keeps its containers",
    );
    checks.found
}

/// Whether other programs' firewalls on one of the hosts let moved connections pass, given what was
/// found in the way.
pub fn firewalls(host: Side, obstacles: &[Obstacle]) -> Vec<Check> {
    let mut checks = Checks {
        host,
        found: Vec::new(),
    };
    for obstacle in obstacles {
        let verdict = match obstacle.certain {
            true => Verdict::Failed,
            false => Verdict::Warning,
        };
        let detail = format!("{}: {}", obstacle.found, obstacle.advice);
        checks.add("firewalls", verdict, detail);
    }
    if obstacles.is_empty() {
        checks.add("firewalls", Verdict::Ok, "moved connections pass");
    }
    checks.found
}

fn programs(checks: &mut Checks, host: &HostFacts, runtime: &str) {
    let mut program = |name: &str, found: Option<&String>, oldest: Option<(u32, u32, u32)>| {
        let recent = |v: &String| oldest.is_none_or(|o| version_numbers(v) >= o);
        let advice = match oldest {
            Some((major, minor, _)) => format!("install {name} {major}.{minor} or newer"),
            None => format!("install {name}, the container's runtime"),
        };
        checks.expect(
            name,
            found.is_some_and(recent),
            found.map_or("missing or does not run", String::as_str),
            &advice,
        );
    };
    program("podman", host.podman.as_ref(), Some(OLDEST_PODMAN));
    program("criu", host.criu.as_ref(), Some(OLDEST_CRIU));
    program(runtime, host.runtimes.get(runtime), None);
    for (feature, problem) in &host.features {
        checks.expect(
            feature,
            problem.is_none(),
            problem.as_deref().unwrap_or("works"),
            "this host cannot take part without it",
        );
    }
}

/// Whether nothing failed.
pub fn passed(checks: &[Check]) -> bool {
    checks.iter().all(|c| c.verdict != Verdict::Failed)
}

fn join<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn list_or_none(items: &[String]) -> String {
    if items.is_empty() {
        "none".into()
    } else {
        items.join(", ")
    }
}

fn short(id: &str) -> &str {
    &id[..id.len().min(12)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::facts::{NetworkFacts, VolumeFacts};

    fn host() -> HostFacts {
        HostFacts {
            name: "h".into(),
            kernel: "6.18".into(),
            architecture: "x86_64".into(),
            podman: Some("5.8.2".into()),
            criu: Some("4.2.1".into()),
            runtimes: [("runc".into(), "1.3.3".into())].into(),
            cpu_flags: ["avx2".into(), "fpu".into()].into(),
            features: [("conntrack".into(), None)].into(),
        }
    }

    fn container() -> ContainerFacts {
        ContainerFacts {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            state: "running".into(),
            image_id: "i".into(),
            image_name: "localhost/web".into(),
            image_bytes: 1 << 20,
            image_layers: vec![],
            runtime: "runc".into(),
            memory_bytes: 1 << 20,
            network_mode: "bridge".into(),
            networks: vec![NetworkFacts {
                name: "podman".into(),
                driver: "bridge".into(),
                subnets: vec!["10.88.0.0/16".parse().unwrap()],
                addresses: vec!["10.88.0.5".parse().unwrap()],
            }],
            ports: vec![],
            volumes: vec![],
            bind_mounts: vec![],
            devices: vec![],
            pod: None,
            dependencies: vec![],
            exec_sessions: 0,
            terminal: false,
            user_namespace: false,
            init: None,
            overlay: true,
        }
    }

    fn here() -> DestinationFacts {
        DestinationFacts {
            networks: [(
                "podman".into(),
                ("bridge".into(), vec!["10.88.0.0/16".parse().unwrap()]),
            )]
            .into(),
            free_bytes: 10 << 30,
            ..Default::default()
        }
    }

    fn failures(checks: &[Check]) -> Vec<&str> {
        checks
            .iter()
            .filter(|c| c.verdict == Verdict::Failed)
            .map(|c| c.name.as_str())
            .collect()
    }

    #[test]
    fn the_init_program_is_the_same() {
        let program = |digest| InitProgram {
            path: "/usr/bin/catatonit".into(),
            blake3: [digest; 32],
        };
        let mut moving = container();
        let judged = |moving: &ContainerFacts, here: Option<InitProgram>| {
            let mut facts = self::here();
            facts.init = here;
            let checks = destination(moving, &host(), &host(), &facts);
            let mut found = checks.into_iter().filter(|c| c.name == "init program");
            found.next().map(|check| check.verdict)
        };
        assert_eq!(judged(&moving, None), None);
        moving.init = Some(program(1));
        assert_eq!(judged(&moving, Some(program(1))), Some(Verdict::Ok));
        assert_eq!(judged(&moving, Some(program(2))), Some(Verdict::Failed));
        assert_eq!(judged(&moving, None), Some(Verdict::Failed));
    }

    #[test]
    fn an_ordinary_container_passes() {
        assert!(passed(&source(&container(), &host())));
        assert!(passed(&destination(
            &container(),
            &host(),
            &host(),
            &here()
        )));
    }

    #[test]
    fn what_cannot_move_is_named() {
        type Change = fn(&mut ContainerFacts);
        let cases: [(&str, Change); 11] = [
            ("state", |c| c.state = "paused".into()),
            ("state", |c| c.state = "exited".into()),
            ("pod", |c| c.pod = Some("p".into())),
            ("namespaces", |c| c.dependencies = vec!["x".into()]),
            ("exec sessions", |c| c.exec_sessions = 1),
            ("terminal", |c| c.terminal = true),
            ("devices", |c| c.devices = vec!["/dev/fuse".into()]),
            ("bind mounts", |c| c.bind_mounts = vec!["/srv".into()]),
            ("root file system", |c| c.overlay = false),
            ("network mode", |c| c.network_mode = "host".into()),
            ("image", |c| c.image_bytes = 0),
        ];
        for (name, change) in cases {
            let mut changed = container();
            change(&mut changed);
            assert_eq!(failures(&source(&changed, &host())), [name]);
        }
    }

    #[test]
    fn a_shared_volume_stays() {
        let mut shared = container();
        shared.volumes = vec![VolumeFacts {
            name: "v".into(),
            destination: "/data".into(),
            driver: "local".into(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            anonymous: false,
            shared_with: vec!["other".into()],
        }];
        assert_eq!(failures(&source(&shared, &host())), ["volume"]);
    }

    #[test]
    fn firewalls_in_the_way_are_named() {
        let mut obstacle = Obstacle {
            found: "a table drops packets".into(),
            advice: "`nft insert rule`".into(),
            certain: true,
        };
        assert!(passed(&firewalls(Side::Source, &[])));
        let checks = firewalls(Side::Destination, std::slice::from_ref(&obstacle));
        assert_eq!(failures(&checks), ["firewalls"]);
        assert_eq!(checks[0].host, Side::Destination);
        assert_eq!(checks[0].detail, "a table drops packets: `nft insert rule`");
        obstacle.certain = false;
        let checks = firewalls(Side::Source, &[obstacle]);
        assert_eq!(checks[0].verdict, Verdict::Warning);
    }

    #[test]
    fn what_the_destination_lacks_is_named() {
        let go = |change: &dyn Fn(&mut HostFacts, &mut DestinationFacts)| {
            let (mut host_there, mut facts) = (host(), here());
            change(&mut host_there, &mut facts);
            let checks = destination(&container(), &host(), &host_there, &facts);
            failures(&checks)
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(go(&|h, _| h.criu = None), ["criu"]);
        assert_eq!(go(&|h, _| h.criu = Some("3.17.1".into())), ["criu"]);
        assert_eq!(go(&|h, _| h.runtimes.clear()), ["runc"]);
        assert_eq!(
            go(&|h, _| h.architecture = "aarch64".into()),
            ["architecture"]
        );
        assert_eq!(go(&|h, _| h.cpu_flags.clear()), ["CPU features"]);
        assert_eq!(
            go(&|h, _| {
                h.features.insert("conntrack".into(), Some("no".into()));
            }),
            ["conntrack"]
        );
        assert_eq!(go(&|_, f| f.id_taken = true), ["container id"]);
        assert_eq!(go(&|_, f| f.name_taken = true), ["container name"]);
        assert_eq!(go(&|_, f| f.networks.clear()), ["network"]);
        assert_eq!(go(&|_, f| f.free_bytes = 0), ["disk space"]);
        assert_eq!(
            go(&|_, f| f.addresses = vec![("other".into(), vec!["10.88.0.5".parse().unwrap()])]),
            ["address"]
        );
        assert_eq!(
            go(&|_, f| f.networks.values_mut().for_each(|n| {
                n.1 = vec!["10.99.0.0/16".parse().unwrap()];
            })),
            ["network"]
        );
    }
}
