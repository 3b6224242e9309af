//! What a container is, and where its pieces are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::list::Listed;
use super::objects::{ImageInspect, networks};
use super::{first, inspect_all, json, podman};
use crate::command::{self, CommandError};
use crate::container::checkpoint::{freezer, processes};
use crate::container::facts::{
    ContainerFacts, LogFacts, NetworkFacts, PublishedPort, Roots, VolumeFacts,
};
use crate::container::files::places::LOG_NAME;
use crate::container::files::usage;
use crate::container::health::HealthFacts;
use crate::container::init::{self, InitProgram};
use crate::container::service::ServiceFacts;
use crate::container::spec::Spec;

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

/// `podman inspect`, reduced to what is read here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspect {
    id: String,
    name: String,
    state: InspectState,
    image: String,
    image_name: String,
    #[serde(rename = "OCIRuntime")]
    oci_runtime: String,
    #[serde(rename = "OCIConfigPath")]
    oci_config_path: Option<String>,
    #[serde(default)]
    resolv_conf_path: String,
    pod: Option<String>,
    #[serde(default)]
    dependencies: Option<Vec<String>>,
    #[serde(rename = "ExecIDs", default)]
    exec_ids: Option<Vec<String>>,
    #[serde(default)]
    mounts: Option<Vec<InspectMount>>,
    graph_driver: InspectGraphDriver,
    network_settings: InspectNetworkSettings,
    config: InspectConfig,
    host_config: InspectHostConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectState {
    status: String,
    pid: i32,
    #[serde(default)]
    cgroup_path: String,
    #[serde(default)]
    conmon_pid: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectMount {
    r#type: String,
    #[serde(default)]
    name: String,
    source: String,
    destination: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectGraphDriver {
    name: String,
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectNetworkSettings {
    #[serde(default)]
    ports: Option<BTreeMap<String, Option<Vec<InspectHostPort>>>>,
    #[serde(default)]
    networks: Option<BTreeMap<String, InspectNetwork>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectHostPort {
    host_ip: String,
    host_port: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectNetwork {
    #[serde(rename = "IPAddress", default)]
    ip_address: String,
    #[serde(rename = "GlobalIPv6Address", default)]
    global_ipv6_address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectConfig {
    #[serde(default)]
    tty: bool,
    healthcheck: Option<InspectHealthcheck>,
    startup_health_check: Option<InspectHealthcheck>,
    #[serde(rename = "sdNotifyMode", default)]
    sd_notify_mode: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectHealthcheck {
    #[serde(default)]
    interval: u64,
}

impl InspectConfig {
    /// An interval of 0 means that nothing is checked by itself.
    fn health(&self) -> Option<HealthFacts> {
        let interval = |check: &Option<InspectHealthcheck>| {
            let check = check.as_ref()?;
            (check.interval > 0).then_some(check.interval)
        };
        Some(HealthFacts {
            interval_ns: interval(&self.healthcheck)?,
            startup_interval_ns: interval(&self.startup_health_check),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectHostConfig {
    network_mode: String,
    #[serde(default)]
    devices: Option<Vec<serde_json::Value>>,
    #[serde(default)]
    log_config: InspectLog,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct InspectLog {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeInspect {
    name: String,
    driver: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    anonymous: bool,
}

/// Looks at the container with this id.
pub async fn inspect(id: &str) -> Result<(ContainerFacts, Local), CommandError> {
    let inspect: Inspect = first(json(&["container", "inspect", id]).await?, "container")?;

    let mounts = inspect.mounts.unwrap_or_default();
    let (mounted, others): (Vec<_>, Vec<_>) = mounts
        .into_iter()
        .partition(|mount| mount.r#type == "volume");
    let volume_root = mounted.iter().find_map(|mount| {
        let root = mount
            .source
            .strip_suffix("/_data")?
            .strip_suffix(&mount.name)?;
        Some(root.trim_end_matches('/').to_owned())
    });
    let directories: Vec<_> = mounted.iter().map(|m| PathBuf::from(&m.source)).collect();
    let bind_mounts = others.into_iter().filter(|mount| mount.r#type == "bind");
    let bind_mounts = bind_mounts.map(|mount| mount.source).collect();
    let image = [inspect.image.as_str()];
    let (known, volumes, image) = tokio::join!(
        networks(),
        volume_facts(mounted, &inspect.id),
        inspect_all::<ImageInspect>("image", &image)
    );
    let (known, volumes) = (known?, volumes?);
    let image = image.ok().and_then(|images| images.into_iter().next());
    let joined = inspect.network_settings.networks.unwrap_or_default();
    let networks = joined.into_iter().map(|(name, network)| {
        let found = known.get(&name).cloned().unwrap_or_default();
        NetworkFacts {
            addresses: [&network.ip_address, &network.global_ipv6_address]
                .iter()
                .filter_map(|a| a.parse().ok())
                .collect(),
            driver: found.driver,
            subnets: found.subnets,
            name,
        }
    });
    let networks = networks.collect();

    let oci_config = PathBuf::from(inspect.oci_config_path.unwrap_or_default());
    let upper = inspect
        .graph_driver
        .data
        .and_then(|mut data| data.remove("UpperDir"));
    let local = Local {
        pid: inspect.state.pid,
        cgroup: inspect.state.cgroup_path,
        bundle: oci_config.parent().map(Path::to_owned).unwrap_or_default(),
        upper: upper.unwrap_or_default().into(),
    };
    let upper = local.upper.clone();
    let counted = tokio::task::spawn_blocking(move || {
        let volumes = directories.iter().map(|volume| usage::allocated(volume));
        (usage::allocated(&upper), volumes.sum())
    });
    let (changed_bytes, volume_bytes) = counted.await.unwrap_or_default();
    let pids = processes::of(&local.cgroup, local.pid);
    // A container that does not run has no configuration.
    let spec = Spec::read(&local.bundle).ok();
    // Podman keeps those that have ended for a while.
    let exec_sessions = match inspect.exec_ids.is_none_or(|ids| ids.is_empty()) {
        true => 0,
        false => processes::from_outside(&pids, local.pid),
    };
    let below = format!("/overlay-containers/{}/userdata/", inspect.id);
    let root = |path: &str, file: &str| {
        let root = path.strip_suffix(file)?.strip_suffix(&below)?;
        Some(root.to_owned())
    };
    let roots = Roots {
        graph: root(&oci_config.to_string_lossy(), "config.json"),
        run: root(&inspect.resolv_conf_path, "resolv.conf"),
        volumes: volume_root,
    };
    let log = inspect.host_config.log_config;
    let usual = local.bundle.join(LOG_NAME);
    let elsewhere = !log.path.is_empty() && Path::new(&log.path) != usual;
    let log = LogFacts {
        driver: log.r#type,
        path: elsewhere.then_some(log.path),
    };
    let facts = ContainerFacts {
        log,
        roots,
        changed_bytes,
        volume_bytes,
        labels: processes::labels(&pids),
        aio_rings: processes::aio_rings(&pids),
        memory_bytes: freezer::memory_bytes(&local.cgroup, local.pid),
        ports: published(inspect.network_settings.ports.unwrap_or_default()),
        id: inspect.id,
        name: inspect.name,
        state: inspect.state.status,
        image_id: inspect.image,
        image_name: inspect.image_name,
        image_bytes: image.as_ref().map_or(0, |i| i.size),
        image_layers: image.map(|i| i.root_fs.layers).unwrap_or_default(),
        runtime: inspect.oci_runtime,
        network_mode: inspect.host_config.network_mode,
        networks,
        volumes,
        bind_mounts,
        devices: inspect
            .host_config
            .devices
            .unwrap_or_default()
            .iter()
            .map(|d| d["PathOnHost"].as_str().unwrap_or_default().to_owned())
            .collect(),
        pod: inspect.pod.filter(|p| !p.is_empty()),
        dependencies: inspect.dependencies.unwrap_or_default(),
        exec_sessions,
        terminal: inspect.config.tty,
        user_namespace: spec.as_ref().is_some_and(Spec::user_namespace),
        init: spec.as_ref().and_then(init),
        overlay: inspect.graph_driver.name == "overlay" && local.upper != Path::new(""),
        service: match inspect.state.conmon_pid {
            0 => None,
            conmon => ServiceFacts::of(conmon, &inspect.config.sd_notify_mode).await?,
        },
        health: inspect.config.health(),
    };
    Ok((facts, local))
}

fn init(spec: &Spec) -> Option<InitProgram> {
    InitProgram::of(spec).unwrap_or_else(|error| {
        tracing::warn!("{}: {error}", init::DESTINATION);
        None
    })
}

/// What [`inspect`] and [`addresses_in_use`] take from what Podman prints, as far as they ask nobody else.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(text: &str) -> Option<(Vec<PublishedPort>, Option<HealthFacts>)> {
    let _ = serde_json::from_str::<Vec<ImageInspect>>(text);
    let _ = serde_json::from_str::<Vec<VolumeInspect>>(text);
    let inspect: Inspect = first(serde_json::from_str(text).ok()?, "container").ok()?;
    let ports = inspect.network_settings.ports.unwrap_or_default();
    Some((published(ports), inspect.config.health()))
}

/// What there is to know of the volumes that are mounted in `container`.
async fn volume_facts(
    mounts: Vec<InspectMount>,
    container: &str,
) -> Result<Vec<VolumeFacts>, CommandError> {
    let names: Vec<&str> = mounts.iter().map(|mount| mount.name.as_str()).collect();
    let (found, users) = tokio::join!(
        inspect_all::<VolumeInspect>("volume", &names),
        users(&names, container)
    );
    let (found, users) = (found?, users?);
    let mut volumes = Vec::new();
    for mount in mounts {
        let at = found.iter().position(|volume| volume.name == mount.name);
        let Some(at) = at else { continue };
        let volume = &found[at];
        // Most have no other user at all: only otherwise is it asked which have.
        let shared_with = match users.is_empty() {
            true => Vec::new(),
            false => self::users(&[&mount.name], container).await?,
        };
        volumes.push(VolumeFacts {
            destination: mount.destination,
            driver: volume.driver.clone(),
            options: volume.options.clone().unwrap_or_default(),
            labels: volume.labels.clone().unwrap_or_default(),
            anonymous: volume.anonymous,
            shared_with,
            name: mount.name,
        });
    }
    Ok(volumes)
}

/// Ids of the containers other than `container` that use one of `volumes`.
async fn users(volumes: &[&str], container: &str) -> Result<Vec<String>, CommandError> {
    if volumes.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = podman();
    command.args(["ps", "--all", "--no-trunc", "--quiet"]);
    // Any of them.
    for volume in volumes {
        command.arg(format!("--filter=volume={volume}"));
    }
    let text = command::stdout(&mut command).await?;
    let others = text.lines().filter(|id| *id != container);
    Ok(others.map(str::to_owned).collect())
}

fn published(ports: BTreeMap<String, Option<Vec<InspectHostPort>>>) -> Vec<PublishedPort> {
    ports
        .iter()
        .flat_map(|(inside, outside)| {
            outside
                .iter()
                .flatten()
                .filter_map(move |host| published_port(inside, host))
        })
        .collect()
}

fn published_port(inside: &str, host: &InspectHostPort) -> Option<PublishedPort> {
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

/// Names and addresses of those of `containers` that run and have an address now.
pub async fn addresses_in_use(
    containers: &[Listed],
) -> Result<Vec<(String, Vec<IpAddr>)>, CommandError> {
    let running = containers.iter().filter(|c| c.state == "running");
    let ids: Vec<&str> = running.map(|c| c.id.as_str()).collect();
    let found: Vec<Inspect> = inspect_all("container", &ids).await?;
    let addresses = |container: Inspect| {
        let networks = container.network_settings.networks.unwrap_or_default();
        let addresses = networks
            .values()
            .flat_map(|n| [n.ip_address.parse(), n.global_ipv6_address.parse()]);
        (container.name, addresses.flatten().collect())
    };
    Ok(found.into_iter().map(addresses).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports_parse() {
        let host = InspectHostPort {
            host_ip: "0.0.0.0".into(),
            host_port: "8080".into(),
        };
        let port = published_port("80/tcp", &host).unwrap();
        assert_eq!(port.to_string(), "8080->80/tcp");
        assert!(published_port("nonsense", &host).is_none());
    }
}
