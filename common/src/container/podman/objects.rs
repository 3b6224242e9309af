//! What Podman keeps besides containers: networks, volumes, images and their names. Also how to remove it,
//! and containers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use super::shapes::{self, Image};
use super::{exists, inspect_all, json, podman};
use crate::command::{self, CommandError};
use crate::container::binds::Volume;
use crate::container::facts::VolumeFacts;

/// A network of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Driver, e.g. `bridge`.
    pub driver: String,
    /// The bridge, if it has one.
    pub bridge: Option<String>,
    /// Subnets.
    pub subnets: Vec<ipnet::IpNet>,
    /// Destinations of the routes that its containers get besides the default one.
    pub routes: Vec<ipnet::IpNet>,
    /// Whether its containers find each other by name.
    pub names: bool,
    /// Whether its containers get a default route.
    pub default_route: bool,
}

#[derive(Deserialize)]
struct NetworkEntry {
    name: String,
    driver: String,
    #[serde(default)]
    network_interface: String,
    #[serde(default)]
    subnets: Option<Vec<NetworkSubnet>>,
    #[serde(default)]
    routes: Option<Vec<NetworkRoute>>,
    #[serde(default)]
    dns_enabled: bool,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct NetworkRoute {
    destination: ipnet::IpNet,
}

#[derive(Deserialize)]
struct NetworkSubnet {
    subnet: ipnet::IpNet,
}

/// All networks of this host, by name.
pub async fn networks() -> Result<BTreeMap<String, Network>, CommandError> {
    Ok(by_name(json(&["network", "ls", "--format", "json"]).await?))
}

fn by_name(found: Vec<NetworkEntry>) -> BTreeMap<String, Network> {
    let network = |found: NetworkEntry| {
        let subnets = found.subnets.unwrap_or_default();
        let options = found.options.unwrap_or_default();
        let none = options.get("no_default_route");
        let none = none.is_some_and(|value| matches!(value.as_str(), "1" | "t" | "true" | "True"));
        let routes = found.routes.into_iter().flatten();
        let network = Network {
            driver: found.driver,
            bridge: Some(found.network_interface).filter(|name| !name.is_empty()),
            subnets: subnets.into_iter().map(|s| s.subnet).collect(),
            routes: routes.map(|route| route.destination).collect(),
            names: found.dns_enabled,
            default_route: !found.internal && !none,
        };
        (found.name, network)
    };
    found.into_iter().map(network).collect()
}

/// What [`networks`] makes of what Podman prints.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(text: &str) -> Option<BTreeMap<String, Network>> {
    Some(by_name(serde_json::from_str(text).ok()?))
}

/// Names of all volumes of this host.
pub async fn volumes() -> Result<BTreeSet<String>, CommandError> {
    let text = command::stdout(podman().args(["volume", "ls", "--quiet"])).await?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Those of the volumes with these names that exist.
pub async fn volumes_named(names: &[&str]) -> Result<Vec<Volume>, CommandError> {
    let found: Vec<shapes::Volume> = inspect_all("volume", names).await?;
    let volumes = found.into_iter().map(|volume| Volume {
        name: volume.name,
        driver: volume.driver,
        options: volume.options.unwrap_or_default(),
    });
    Ok(volumes.collect())
}

/// The layers of all images of this host, as [`crate::container::facts::ContainerFacts::image_layers`]
/// names them.
pub async fn layers() -> Result<BTreeSet<String>, CommandError> {
    let all = ["image", "list", "--all", "--quiet", "--no-trunc"];
    let text = command::stdout(podman().args(all)).await?;
    let ids: BTreeSet<&str> = text.lines().collect();
    if ids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let inspect: Vec<&str> = ["image", "inspect"].into_iter().chain(ids).collect();
    let images: Vec<Image> = json(&inspect).await?;
    Ok(images.into_iter().flat_map(|i| i.root_fs.layers).collect())
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

/// The directory of a volume that has no options, which is there whether or not a container uses it.
pub async fn volume_directory(name: &str) -> Result<PathBuf, CommandError> {
    let format = ["volume", "inspect", "--format", "{{.Mountpoint}}", name];
    let text = command::stdout(podman().args(format)).await?;
    Ok(text.trim_end_matches('\n').into())
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

/// Gives an image another name. Undone by [`untag_image`].
pub async fn tag_image(id: &str, name: &str) -> Result<(), CommandError> {
    command::stdout(podman().args(["image", "tag", id, name]))
        .await
        .map(drop)
}

/// Takes a name away from an image. A name that does not exist is fine.
pub async fn untag_image(id: &str, name: &str) -> Result<(), CommandError> {
    if exists("image", name).await? {
        command::stdout(podman().args(["image", "untag", id, name])).await?;
    }
    Ok(())
}
