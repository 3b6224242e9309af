//! What a container is, and how its own host gets at it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::list::{Listed, PodmanError, list, resolve};
use super::objects::{Network, networks};
use super::shapes::{self, Container, HostPort, Image, Mount, Other, Volume};
use super::{inspect_all, inspected, podman, unexpected};
use crate::command::CommandError;
use crate::container::binds::{self, Bind};
use crate::container::checkpoint::{copies, freezer, huge_pages, processes, unmovable};
use crate::container::facts::{
    ContainerFacts, HugePages, LogFacts, NetworkFacts, PublishedPort, Roots, VolumeFacts,
};
use crate::container::files::places::LOG_NAME;
use crate::container::files::usage;
use crate::container::health::HealthFacts;
use crate::container::init::{self, InitProgram};
use crate::container::secrets;
use crate::container::service::ServiceFacts;
use crate::container::spec::Spec;
use crate::container::{edited, keyring};
use crate::net::inside::{self, Ordinary};

/// What only a container's own host can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Process id of the container's first process, in the host's pid namespace; 0 if it does not run.
    pub pid: i32,
    /// Cgroup path below the cgroup mount, as Podman reports it.
    pub cgroup: String,
    /// Podman's directory of the container. The generated OCI configuration is there while it runs.
    pub bundle: PathBuf,
    /// The overlay's upper directory.
    pub upper: PathBuf,
}

/// Finds the container that is meant by a name, an id, or a unique prefix of an id, and looks at it.
///
/// Podman is slow to start, so it is started only a few times, whatever there is on the host.
pub async fn inspect(given: &str) -> Result<(ContainerFacts, Local), PodmanError> {
    let (listed, networks) = tokio::join!(list(), networks());
    let listed = listed?;
    let found = resolve(&listed, given)?;
    let mut ids = vec![found.id.as_str(), found.image_id.as_str()];
    // Those that may use the same volumes.
    let others = |other: &&Listed| found.has_mounts && other.has_mounts && other.id != found.id;
    ids.extend(listed.iter().filter(others).map(|other| other.id.as_str()));
    let (mut container, mut image, mut others) = (None, None, Vec::new());
    for object in objects(&ids).await? {
        match object["Id"].as_str() {
            Some(id) if id == found.id => container = Some(parsed(object)?),
            Some(id) if id == found.image_id => image = Some(parsed(object)?),
            _ => others.push(parsed(object)?),
        }
    }
    let container = container.ok_or_else(|| PodmanError::NoSuchContainer(given.to_owned()))?;
    let volumes = volumes(&container, &others).await?;
    let networks = networks?;
    let known_by_name = known_by_name(found, &listed, &networks);
    let (mut facts, local) = facts(container, image, volumes, &networks).await?;
    facts.known_by_name = known_by_name;
    Ok((facts, local))
}

/// Names of the running containers in those networks of `container` that have Podman's DNS.
fn known_by_name(
    container: &Listed,
    all: &[Listed],
    networks: &BTreeMap<String, Network>,
) -> Vec<String> {
    let named = |name: &&String| networks.get(*name).is_some_and(|network| network.names);
    let mine: BTreeSet<&String> = container.networks.iter().filter(named).collect();
    let others = running(all).filter(|other| other.id != container.id);
    let known = others.filter(|other| other.networks.iter().any(|name| mine.contains(name)));
    known.map(|other| other.name.clone()).collect()
}

/// Containers and images with these ids, all of them from one process. Those that do not exist are left
/// out.
async fn objects(ids: &[&str]) -> Result<Vec<Value>, CommandError> {
    // A container without an image has an empty id in its place, which Podman would refuse.
    let ids = ids.iter().filter(|id| !id.is_empty());
    inspected(podman().arg("inspect").args(ids)).await
}

fn parsed<T: DeserializeOwned>(object: Value) -> Result<T, CommandError> {
    serde_json::from_value(object).map_err(|error| unexpected(&format!("inspect: {error}")))
}

async fn facts(
    container: Container,
    image: Option<Image>,
    mut volumes: Vec<VolumeFacts>,
    known: &BTreeMap<String, Network>,
) -> Result<(ContainerFacts, Local), CommandError> {
    let mounts = container.mounts.unwrap_or_default();
    let mounted: Vec<Mount> = mounts
        .into_iter()
        .filter(|mount| mount.r#type == "volume")
        .collect();
    let volume_root = mounted.iter().find_map(|mount| {
        let root = mount
            .source
            .strip_suffix("/_data")?
            .strip_suffix(&mount.name)?;
        Some(root.trim_end_matches('/').to_owned())
    });
    let directories: Vec<_> = mounted.iter().map(|m| PathBuf::from(&m.source)).collect();
    let joined = container.network_settings.networks.unwrap_or_default();
    let ordinary = ordinary(&joined, known);
    let networks = joined.into_iter().map(|(name, network)| {
        let found = known.get(&name).cloned().unwrap_or_default();
        NetworkFacts {
            addresses: addresses(&network),
            driver: found.driver,
            subnets: found.subnets,
            name,
        }
    });
    let networks = networks.collect();

    let oci_config = PathBuf::from(container.oci_config_path.unwrap_or_default());
    let upper = container
        .graph_driver
        .data
        .and_then(|mut data| data.remove("UpperDir"));
    let local = Local {
        pid: container.state.pid,
        cgroup: container.state.cgroup_path,
        bundle: oci_config.parent().map(Path::to_owned).unwrap_or_default(),
        upper: upper.unwrap_or_default().into(),
    };
    let own_run = Path::new(&container.resolv_conf_path).parent();
    let own_run = own_run.map(Path::to_owned).unwrap_or_default();
    let own = vec![local.bundle.clone(), own_run];
    let upper = local.upper.clone();
    let counted = tokio::task::spawn_blocking(move || {
        let volumes = directories.iter().map(|volume| usage::allocated(volume));
        (usage::allocated(&upper), volumes.sum())
    });
    let (changed_bytes, volume_bytes) = counted.await.unwrap_or_default();
    let pids = processes::of(&local.cgroup, local.pid);
    let pid = local.pid;
    let looked = tokio::task::spawn_blocking(move || match pid {
        0 => Default::default(),
        pid => {
            let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
            let changes = inside::look(&netns, &ordinary);
            (changes, inside::default_interfaces(&netns))
        }
    });
    let (network_changes, default_interfaces) = looked.await.unwrap_or_default();
    let secrets = container.config.secrets.iter().flatten();
    let secret_names: BTreeSet<String> = secrets.map(|secret| secret.name.clone()).collect();
    let secret_names: Vec<String> = secret_names.into_iter().collect();
    let secrets = secrets::of_container(&container.id, &local.bundle, &secret_names).await?;
    let known_secret = |name: &String| secrets.iter().any(|secret| secret.name == *name);
    let lost_secrets = secret_names.into_iter().filter(|name| !known_secret(name));
    let lost_secrets = lost_secrets.collect();
    // A container that does not run has no configuration.
    let spec = Spec::read(&local.bundle).ok();
    let (looked_at, all) = (local.clone(), pids.clone());
    let binds = tokio::task::spawn_blocking(move || match Spec::read(&looked_at.bundle) {
        Ok(spec) => binds::of_container(&spec, &own, looked_at.pid, &all),
        Err(_) => Vec::new(),
    });
    // Podman keeps those that have ended for a while.
    let exec_sessions = match container.exec_ids.is_none_or(|ids| ids.is_empty()) {
        true => 0,
        false => processes::from_outside(&pids, local.pid),
    };
    let below = format!("/overlay-containers/{}/userdata/", container.id);
    let root = |path: &str, file: &str| {
        let root = path.strip_suffix(file)?.strip_suffix(&below)?;
        Some(root.to_owned())
    };
    let roots = Roots {
        graph: root(&oci_config.to_string_lossy(), "config.json"),
        run: root(&container.resolv_conf_path, "resolv.conf"),
        volumes: volume_root,
    };
    let log = container.host_config.log_config;
    let usual = local.bundle.join(LOG_NAME);
    let elsewhere = !log.path.is_empty() && Path::new(&log.path) != usual;
    let log = LogFacts {
        driver: log.r#type,
        path: elsewhere.then_some(log.path),
    };
    let devices = container.host_config.devices.unwrap_or_default();
    let mut devices: Vec<String> = devices
        .iter()
        .map(|device| device["PathOnHost"].as_str().unwrap_or_default().to_owned())
        .collect();
    // Some are only in the OCI configuration: those of CDI.
    if let Some(spec) = spec
        .as_ref()
        .filter(|_| devices.is_empty() && !container.host_config.privileged)
    {
        devices = spec.devices();
    }
    let written = [
        &container.hosts_path,
        &container.resolv_conf_path,
        &container.hostname_path,
    ];
    let written: Vec<&Path> = written.into_iter().map(Path::new).collect();
    let edited = edited::since_start(&oci_config, &written);
    let huge_pages = huge_pages::mapped(&pids).into_iter();
    let huge_pages = huge_pages.map(|(page_bytes, bytes)| HugePages { page_bytes, bytes });
    let huge_pages: Vec<HugePages> = huge_pages.collect();
    let binds = without_volumes(binds.await.unwrap_or_default(), &mut volumes);
    let [processors, memory_nodes] = spec.as_ref().map(Spec::cpusets).unwrap_or_default();
    let facts = ContainerFacts {
        edited,
        processors,
        memory_nodes,
        controllers: spec.as_ref().map(Spec::controllers).unwrap_or_default(),
        known_by_name: Vec::new(),
        devices,
        privileged: container.host_config.privileged,
        host_namespaces: spec.as_ref().map(Spec::host_namespaces).unwrap_or_default(),
        sysctls: spec.as_ref().map(Spec::sysctls).unwrap_or_default(),
        network_changes,
        default_interfaces,
        unmovable: unmovable::found(&pids, local.pid),
        secrets,
        lost_secrets,
        log,
        roots,
        changed_bytes,
        volume_bytes,
        labels: processes::labels(&pids),
        aio_rings: processes::aio_rings(&pids),
        forced: BTreeSet::new(),
        mapped_bytes: processes::mapped_bytes(&pids),
        memory_bytes: freezer::memory_bytes(&local.cgroup, local.pid)
            + unmovable::deleted_bytes(&pids)
            + huge_pages.iter().map(|pages| pages.bytes).sum::<u64>(),
        copied_bytes: copies::additional_bytes(&pids),
        huge_pages,
        keys: keyring::keys(&container.id),
        ports: published(container.network_settings.ports.unwrap_or_default()),
        id: container.id,
        name: container.name,
        state: container.state.status,
        image_id: container.image,
        image_name: container.image_name,
        image_bytes: image.as_ref().map_or(0, |i| i.size),
        image_layers: image.map(|i| i.root_fs.layers).unwrap_or_default(),
        runtime: container.oci_runtime,
        network_mode: container.host_config.network_mode,
        networks,
        volumes,
        binds,
        other_mounts: spec.as_ref().map(Spec::other_mounts).unwrap_or_default(),
        pod: container.pod.filter(|p| !p.is_empty()),
        dependencies: container.dependencies.unwrap_or_default(),
        exec_sessions,
        terminal: container.config.tty,
        privileges: spec.as_ref().map(Spec::privileges).unwrap_or_default(),
        user_namespace: spec.as_ref().is_some_and(Spec::user_namespace),
        init: spec.as_ref().and_then(init),
        overlay: container.graph_driver.name == "overlay" && local.upper != Path::new(""),
        service: match container.state.conmon_pid {
            0 => None,
            conmon => ServiceFacts::of(conmon, &container.config.sd_notify_mode).await?,
        },
        health: health(&container.config),
    };
    Ok((facts, local))
}

/// An interval of 0 means that nothing is checked by itself.
fn health(config: &shapes::Config) -> Option<HealthFacts> {
    let interval = |check: &Option<shapes::Healthcheck>| {
        let check = check.as_ref()?;
        (check.interval > 0).then_some(check.interval)
    };
    Some(HealthFacts {
        interval_ns: interval(&config.healthcheck)?,
        startup_interval_ns: interval(&config.startup_health_check),
    })
}

fn init(spec: &Spec) -> Option<InitProgram> {
    InitProgram::of(spec).unwrap_or_else(|error| {
        tracing::warn!("{}: {error}", init::DESTINATION);
        None
    })
}

/// What is taken from what Podman prints of a container, without looking at the host.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(text: &str) -> Option<(Vec<PublishedPort>, Option<HealthFacts>)> {
    let _ = serde_json::from_str::<Vec<Image>>(text);
    let _ = serde_json::from_str::<Vec<Volume>>(text);
    let _ = serde_json::from_str::<Vec<Other>>(text);
    let containers: Vec<Container> = serde_json::from_str(text).ok()?;
    let container = containers.into_iter().next()?;
    let ports = container.network_settings.ports.unwrap_or_default();
    Some((published(ports), health(&container.config)))
}

/// What there is to know of the volumes that are mounted in `container`; `others` may use them, too.
async fn volumes(
    container: &Container,
    others: &[Other],
) -> Result<Vec<VolumeFacts>, CommandError> {
    let mounted: Vec<&Mount> = volumes_of(&container.mounts).collect();
    let names: Vec<&str> = mounted.iter().map(|mount| mount.name.as_str()).collect();
    let found: Vec<Volume> = inspect_all("volume", &names).await?;
    let facts = mounted.into_iter().filter_map(|mount| {
        let volume = found.iter().find(|volume| volume.name == mount.name)?;
        Some(VolumeFacts {
            name: mount.name.clone(),
            destination: mount.destination.clone(),
            driver: volume.driver.clone(),
            options: volume.options.clone().unwrap_or_default(),
            labels: volume.labels.clone().unwrap_or_default(),
            anonymous: volume.anonymous,
            shared_with: users(&mount.name, others),
            send: false,
            bind: None,
        })
    });
    Ok(facts.collect())
}

/// Those of `binds` that are not of `volumes`; the others go there.
fn without_volumes(binds: Vec<Bind>, volumes: &mut [VolumeFacts]) -> Vec<Bind> {
    let (own, others): (Vec<Bind>, Vec<Bind>) = binds.into_iter().partition(|bind: &Bind| {
        let mut volumes = volumes.iter();
        volumes.any(|volume| volume.destination == bind.destination)
    });
    for bind in own {
        let of = volumes
            .iter_mut()
            .find(|volume| volume.destination == bind.destination);
        if let Some(volume) = of {
            volume.bind = Some(Box::new(bind));
        }
    }
    others
}

fn volumes_of(mounts: &Option<Vec<Mount>>) -> impl Iterator<Item = &Mount> {
    let mounts = mounts.iter().flatten();
    mounts.filter(|mount| mount.r#type == "volume")
}

/// Ids of those of `containers` that use this volume.
fn users(volume: &str, containers: &[Other]) -> Vec<String> {
    let uses = |container: &&Other| volumes_of(&container.mounts).any(|m| m.name == volume);
    let users = containers.iter().filter(uses);
    users.map(|user| user.id.clone()).collect()
}

fn published(ports: BTreeMap<String, Option<Vec<HostPort>>>) -> Vec<PublishedPort> {
    let mut published: Vec<_> = ports
        .iter()
        .flat_map(|(inside, outside)| {
            outside
                .iter()
                .flatten()
                .filter_map(move |host| published_port(inside, host))
        })
        .collect();
    // Podman's keys are in the order of words.
    published.sort_by(|one: &PublishedPort, other| {
        let order = |port: &PublishedPort| (port.host_address, port.host_port, port.container_port);
        one.protocol
            .cmp(&other.protocol)
            .then_with(|| order(one).cmp(&order(other)))
    });
    published
}

fn published_port(inside: &str, host: &HostPort) -> Option<PublishedPort> {
    let (port, protocol) = inside.split_once('/')?;
    Some(PublishedPort {
        host_address: host
            .host_ip
            .parse()
            .ok()
            .filter(|a: &IpAddr| !a.is_unspecified()),
        host_port: host.host_port.parse().ok()?,
        container_port: port.parse().ok()?,
        protocol: protocol.to_owned(),
    })
}

/// What Podman has made for `joined` in a container's network namespace.
fn ordinary(
    joined: &BTreeMap<String, shapes::Network>,
    known: &BTreeMap<String, Network>,
) -> Ordinary {
    let mut ordinary = Ordinary::default();
    for (name, network) in joined {
        let hardware = Some(&network.mac_address).filter(|address| !address.is_empty());
        ordinary
            .hardware
            .extend(hardware.map(|address| address.to_lowercase()));
        ordinary.addresses.extend(addresses(network));
        let secondary = [
            &network.secondary_ip_addresses,
            &network.secondary_ipv6_addresses,
        ];
        let secondary = secondary.into_iter().flatten().flatten();
        ordinary
            .addresses
            .extend(secondary.filter_map(|s| s.addr.parse::<IpAddr>().ok()));
        let routers = [&network.gateway, &network.ipv6_gateway];
        let routers = routers.into_iter().filter_map(|router| router.parse().ok());
        let routers: Vec<IpAddr> = routers.collect();
        if let Some(known) = known.get(name) {
            ordinary.routes.extend(&known.routes);
            if known.default_route {
                ordinary.default_routers.extend(&routers);
            }
        }
        ordinary.routers.extend(routers);
    }
    ordinary
}

fn addresses(network: &shapes::Network) -> Vec<IpAddr> {
    let texts = [&network.ip_address, &network.global_ipv6_address];
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// What this host has that matters to a container that comes here.
#[derive(Debug, Default)]
pub struct Present {
    /// Whether its image is there.
    pub image: bool,
    /// Addresses of the containers that run, by their names.
    pub addresses: Vec<(String, Vec<IpAddr>)>,
}

/// Looks for this image and for the addresses of `containers`, which are all those of this host.
pub async fn present(image_id: &str, containers: &[Listed]) -> Result<Present, CommandError> {
    let mut ids = vec![image_id];
    let networked = running(containers).filter(|container| !container.networks.is_empty());
    ids.extend(networked.map(|container| container.id.as_str()));
    let mut present = Present::default();
    for object in objects(&ids).await? {
        if object["Id"] == image_id {
            present.image = true;
            continue;
        }
        let container: Other = parsed(object)?;
        let networks = container.network_settings.networks.unwrap_or_default();
        let addresses = networks.values().flat_map(addresses).collect();
        present.addresses.push((container.name, addresses));
    }
    Ok(present)
}

/// Memory in use by each of `containers` that runs, in bytes, by id.
pub async fn memory(containers: &[Listed]) -> Result<BTreeMap<String, u64>, CommandError> {
    let ids: Vec<&str> = running(containers)
        .map(|container| container.id.as_str())
        .collect();
    let found: Vec<Other> = inspect_all("container", &ids).await?;
    let memory = |container: Other| {
        let state = container.state;
        (
            container.id,
            freezer::memory_bytes(&state.cgroup_path, state.pid),
        )
    };
    Ok(found.into_iter().map(memory).collect())
}

fn running(containers: &[Listed]) -> impl Iterator<Item = &Listed> {
    containers
        .iter()
        .filter(|container| container.state == "running")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_a_volume_are_found_whatever_else_they_lack() {
        let containers = r#"[
            {"Id":"a","Name":"a","State":{"Pid":0},"GraphDriver":null,"NetworkSettings":{},
             "Mounts":[{"Type":"volume","Name":"v","Source":"/v/_data","Destination":"/x"}]},
            {"Id":"b","Name":"b","State":{"Pid":0},"NetworkSettings":{},
             "Mounts":[{"Type":"bind","Source":"/v","Destination":"/v"}]},
            {"Id":"c","Name":"c","State":{"Pid":0},"NetworkSettings":{},"Mounts":null}]"#;
        let containers: Vec<Other> = serde_json::from_str(containers).unwrap();
        assert_eq!(users("v", &containers), ["a"]);
    }

    #[test]
    fn published_ports_parse() {
        let host = HostPort {
            host_ip: "0.0.0.0".into(),
            host_port: "8080".into(),
        };
        let port = published_port("80/tcp", &host).unwrap();
        assert_eq!(port.to_string(), "8080->80/tcp");
        assert!(published_port("nonsense", &host).is_none());
    }
}
