//! Podman's command line, as one typed call per thing asked of it.
//!
//! Podman stays the owner of its database, storage and networks: nothing here edits its files.

pub mod image;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::process::Command;

use super::checkpoint::processes;
use super::facts::{ContainerFacts, LogFacts, NetworkFacts, PublishedPort, Roots, VolumeFacts};
use super::files::usage;
use super::health::HealthFacts;
use super::init::InitProgram;
use super::service::ServiceFacts;
use super::spec::{LOG_NAME, Layout};
use crate::command::{self, CommandError};

/// Why a container name means no container.
#[derive(Debug, thiserror::Error)]
pub enum PodmanError {
    /// No such container.
    #[error("there is no container `{0}` on this host (`podman ps` lists those that run)")]
    NoSuchContainer(String),
    /// The prefix fits several containers.
    #[error("`{prefix}` could be any of: {}", candidates.join(", "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// Containers it fits.
        candidates: Vec<String>,
    },
    /// Podman failed.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// A line of `podman ps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Full id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Image name.
    pub image: String,
    /// Published ports as Podman prints them.
    pub ports: String,
    /// State, e.g. `running`.
    pub state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PsEntry {
    #[serde(alias = "ID")]
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    image: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    ports: Option<Vec<PsPort>>,
}

#[derive(Deserialize)]
struct PsPort {
    host_ip: String,
    host_port: u16,
    container_port: u16,
    #[serde(default = "one")]
    range: u16,
    protocol: String,
}

fn one() -> u16 {
    1
}

/// All containers, running or not, in Podman's order.
pub async fn list() -> Result<Vec<Listed>, CommandError> {
    let entries: Option<Vec<PsEntry>> =
        json(&["ps", "--all", "--no-trunc", "--format", "json"]).await?;
    Ok(entries
        .unwrap_or_default()
        .into_iter()
        .map(|e| Listed {
            name: e.names.into_iter().next().unwrap_or_default(),
            ports: e
                .ports
                .unwrap_or_default()
                .iter()
                .map(|p| {
                    let host = if p.host_ip.is_empty() {
                        String::new()
                    } else {
                        format!("{}:", p.host_ip)
                    };
                    let range = |first: u16| match p.range {
                        0 | 1 => first.to_string(),
                        n => format!("{first}-{}", first.saturating_add(n - 1)),
                    };
                    format!(
                        "{host}{}->{}/{}",
                        range(p.host_port),
                        range(p.container_port),
                        p.protocol
                    )
                })
                .collect::<Vec<_>>()
                .join(", "),
            id: e.id,
            image: e.image,
            state: e.state,
        })
        .collect())
}

/// Finds the container meant by a name, an id, or a unique prefix of an id.
pub fn resolve<'a>(containers: &'a [Listed], given: &str) -> Result<&'a Listed, PodmanError> {
    if let Some(exact) = containers.iter().find(|c| c.name == given || c.id == given) {
        return Ok(exact);
    }
    let fits: Vec<&Listed> = containers
        .iter()
        .filter(|c| !given.is_empty() && (c.id.starts_with(given) || c.name.starts_with(given)))
        .collect();
    match fits[..] {
        [] => Err(PodmanError::NoSuchContainer(given.to_owned())),
        [only] => Ok(only),
        _ => Err(PodmanError::Ambiguous {
            prefix: given.to_owned(),
            candidates: fits
                .iter()
                .map(|c| format!("{} ({})", c.name, &c.id[..c.id.len().min(12)]))
                .collect(),
        }),
    }
}

/// Where a running container's pieces are on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Process id of the container's first process, in the host's pid namespace.
    pub pid: i32,
    /// Path of the network namespace.
    pub netns: String,
    /// Cgroup path below the cgroup mount, as Podman reports it.
    pub cgroup: String,
    /// The generated OCI `config.json`.
    pub oci_config: String,
    /// The overlay's upper directory.
    pub upper_dir: String,
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
    sandbox_key: String,
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

/// A network of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Driver, e.g. `bridge`.
    pub driver: String,
    /// The bridge, if it has one.
    pub bridge: Option<String>,
    /// Subnets.
    pub subnets: Vec<ipnet::IpNet>,
}

#[derive(Deserialize)]
struct NetworkEntry {
    name: String,
    driver: String,
    #[serde(default)]
    network_interface: String,
    #[serde(default)]
    subnets: Option<Vec<NetworkSubnet>>,
}

#[derive(Deserialize)]
struct NetworkSubnet {
    subnet: ipnet::IpNet,
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

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageInspect {
    #[serde(default)]
    size: u64,
    #[serde(rename = "RootFS", default)]
    root_fs: RootFs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(default)]
    layers: Vec<String>,
}

/// Looks at the container with this id: what it is, and where its pieces are.
pub async fn inspect(id: &str) -> Result<(ContainerFacts, Placement), CommandError> {
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

    let placement = Placement {
        pid: inspect.state.pid,
        netns: inspect.network_settings.sandbox_key,
        cgroup: inspect.state.cgroup_path,
        oci_config: inspect.oci_config_path.unwrap_or_default(),
        upper_dir: inspect
            .graph_driver
            .data
            .as_ref()
            .and_then(|d| d.get("UpperDir").cloned())
            .unwrap_or_default(),
    };
    let upper = PathBuf::from(&placement.upper_dir);
    let counted = tokio::task::spawn_blocking(move || {
        let volumes = directories.iter().map(|volume| usage::allocated(volume));
        (usage::allocated(&upper), volumes.sum())
    });
    let (changed_bytes, volume_bytes) = counted.await.unwrap_or_default();
    let pids = processes::of(&placement.cgroup, placement.pid);
    // One that does not run has no configuration.
    let layout = Layout::read(Path::new(&placement.oci_config)).ok();
    // Podman keeps those that have ended for a while.
    let exec_sessions = match inspect.exec_ids.is_none_or(|ids| ids.is_empty()) {
        true => 0,
        false => processes::from_outside(&pids, placement.pid),
    };
    let below = format!("/overlay-containers/{}/userdata/", inspect.id);
    let root = |path: &str, file: &str| {
        let root = path.strip_suffix(file)?.strip_suffix(&below)?;
        Some(root.to_owned())
    };
    let roots = Roots {
        graph: root(&placement.oci_config, "config.json"),
        run: root(&inspect.resolv_conf_path, "resolv.conf"),
        volumes: volume_root,
    };
    let log = inspect.host_config.log_config;
    let usual = Path::new(&placement.oci_config).with_file_name(LOG_NAME);
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
        memory_bytes: crate::container::checkpoint::freezer::memory_bytes(
            &placement.cgroup,
            placement.pid,
        ),
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
        user_namespace: layout.as_ref().is_some_and(|layout| layout.user_namespace),
        init: layout.as_ref().and_then(init),
        overlay: inspect.graph_driver.name == "overlay" && !placement.upper_dir.is_empty(),
        service: match inspect.state.conmon_pid {
            0 => None,
            conmon => ServiceFacts::of(conmon, &inspect.config.sd_notify_mode).await?,
        },
        health: inspect.config.health(),
    };
    Ok((facts, placement))
}

fn init(layout: &Layout) -> Option<InitProgram> {
    InitProgram::of(layout).unwrap_or_else(|error| {
        tracing::warn!("{}: {error}", super::init::DESTINATION);
        None
    })
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

/// All networks of this host, by name.
pub async fn networks() -> Result<BTreeMap<String, Network>, CommandError> {
    let found: Vec<NetworkEntry> = json(&["network", "ls", "--format", "json"]).await?;
    let network = |found: NetworkEntry| {
        let subnets = found.subnets.unwrap_or_default();
        let network = Network {
            driver: found.driver,
            bridge: Some(found.network_interface).filter(|name| !name.is_empty()),
            subnets: subnets.into_iter().map(|s| s.subnet).collect(),
        };
        (found.name, network)
    };
    Ok(found.into_iter().map(network).collect())
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

/// `podman KIND inspect` of all `names` at once. One that has gone since it was listed is left out:
/// Podman complains of it and prints the others.
async fn inspect_all<T: DeserializeOwned>(
    kind: &str,
    names: &[&str],
) -> Result<Vec<T>, CommandError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = podman();
    command.args([kind, "inspect"]).args(names);
    let output = command::output(&mut command).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).map_err(|error| match output.status.success() {
        true => CommandError::Output {
            program: "podman".into(),
            message: format!("{kind} inspect: {error}"),
        },
        false => command::failed(&command, &output),
    })
}

/// Names of all volumes of this host.
pub async fn volumes() -> Result<BTreeSet<String>, CommandError> {
    let text = command::stdout(podman().args(["volume", "ls", "--quiet"])).await?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The layers of all images of this host, by [`ContainerFacts::image_layers`]' digests.
pub async fn layers() -> Result<BTreeSet<String>, CommandError> {
    let all = ["image", "list", "--all", "--quiet", "--no-trunc"];
    let text = command::stdout(podman().args(all)).await?;
    let ids: BTreeSet<&str> = text.lines().collect();
    if ids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let inspect: Vec<&str> = ["image", "inspect"].into_iter().chain(ids).collect();
    let images: Vec<ImageInspect> = json(&inspect).await?;
    Ok(images.into_iter().flat_map(|i| i.root_fs.layers).collect())
}

/// Whether a `container`, `image`, `network` or `volume` of this name exists.
pub async fn exists(kind: &str, name: &str) -> Result<bool, CommandError> {
    let mut command = podman();
    command.args([kind, "exists", name]);
    let output = command::output(&mut command).await?;
    match output.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err(command::failed(&command, &output)),
    }
}

/// Makes a volume. Undone by [`remove_volume`].
pub async fn create_volume(volume: &VolumeFacts) -> Result<(), CommandError> {
    let mut command = podman();
    command.args(["volume", "create", "--driver", &volume.driver]);
    for (key, value) in &volume.options {
        command.args(["--opt", &format!("{key}={value}")]);
    }
    for (key, value) in &volume.labels {
        command.args(["--label", &format!("{key}={value}")]);
    }
    command.arg(&volume.name);
    command::stdout(&mut command).await.map(drop)
}

/// Removes a volume and its content. One that does not exist is fine.
pub async fn remove_volume(name: &str) -> Result<(), CommandError> {
    if exists("volume", name).await? {
        command::stdout(podman().args(["volume", "rm", name])).await?;
    }
    Ok(())
}

/// Kills and removes a container with its anonymous volumes. One that does not exist is fine.
pub async fn remove_container(id: &str) -> Result<(), CommandError> {
    command::stdout(podman().args(["rm", "--force", "--ignore", "--volumes", "--time", "0", id]))
        .await
        .map(drop)
}

/// Removes an image. One that does not exist is fine.
pub async fn remove_image(id: &str) -> Result<(), CommandError> {
    command::stdout(podman().args(["image", "rm", "--ignore", id]))
        .await
        .map(drop)
}

/// Gives an image one more name. Undone by [`untag_image`].
pub async fn tag_image(id: &str, name: &str) -> Result<(), CommandError> {
    command::stdout(podman().args(["image", "tag", id, name]))
        .await
        .map(drop)
}

/// Takes a name away from an image. One that it does not have is fine.
pub async fn untag_image(id: &str, name: &str) -> Result<(), CommandError> {
    if exists("image", name).await? {
        command::stdout(podman().args(["image", "untag", id, name])).await?;
    }
    Ok(())
}

/// Where Podman keeps things on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Images and containers.
    pub graph_root: String,
    /// What does not outlive the host's next start.
    pub run_root: String,
    /// Volumes.
    pub volumes: String,
    /// The conmon that it uses.
    pub conmon: String,
}

#[derive(Deserialize)]
struct Info {
    host: InfoHost,
    store: InfoStore,
}

#[derive(Deserialize)]
struct InfoHost {
    conmon: InfoConmon,
}

#[derive(Deserialize)]
struct InfoConmon {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InfoStore {
    graph_root: String,
    run_root: String,
    volume_path: String,
}

/// Where Podman keeps things.
pub async fn places() -> Result<Places, CommandError> {
    let info: Info = json(&["info", "--format", "json"]).await?;
    Ok(Places {
        graph_root: info.store.graph_root,
        run_root: info.store.run_root,
        volumes: info.store.volume_path,
        conmon: info.host.conmon.path,
    })
}

/// A `podman` command line to be completed.
pub fn podman() -> Command {
    command::new("podman")
}

async fn json<T: DeserializeOwned>(arguments: &[&str]) -> Result<T, CommandError> {
    let text = command::stdout(podman().args(arguments)).await?;
    serde_json::from_str(&text).map_err(|error| CommandError::Output {
        program: "podman".into(),
        message: format!("{}: {error}", arguments.join(" ")),
    })
}

fn first<T>(items: Vec<T>, what: &str) -> Result<T, CommandError> {
    items
        .into_iter()
        .next()
        .ok_or_else(|| CommandError::Output {
            program: "podman".into(),
            message: format!("an empty list instead of a {what}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, name: &str) -> Listed {
        Listed {
            id: id.into(),
            name: name.into(),
            image: String::new(),
            ports: String::new(),
            state: "running".into(),
        }
    }

    #[test]
    fn a_name_beats_a_prefix() {
        let all = [listed("abc1", "web"), listed("abc2", "web2")];
        assert_eq!(resolve(&all, "web").unwrap().id, "abc1");
        assert_eq!(resolve(&all, "abc2").unwrap().name, "web2");
        assert_eq!(resolve(&all, "web2").unwrap().id, "abc2");
    }

    #[test]
    fn an_ambiguous_prefix_names_the_candidates() {
        let all = [listed("abc1", "one"), listed("abc2", "two")];
        let error = resolve(&all, "abc").unwrap_err().to_string();
        assert!(
            error.contains("one (abc1)") && error.contains("two (abc2)"),
            "{error}"
        );
    }

    #[test]
    fn nothing_fits() {
        for given in ["zzz", ""] {
            assert!(matches!(
                resolve(&[listed("abc1", "one")], given),
                Err(PodmanError::NoSuchContainer(_))
            ));
        }
    }

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
