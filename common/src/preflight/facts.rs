//! What preflight's rules examine besides the container and the two hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::container::facts::PublishedPort;
use crate::container::init::InitProgram;
use crate::container::podman::info::Places;
use crate::container::podman::objects::Network;
use crate::container::service::ServiceHere;
use crate::host::Room;

/// What the destination found out about itself for this container.
#[derive(Debug, Clone, Default)]
pub struct DestinationFacts {
    /// Whether the image is in its store.
    pub image_present: bool,
    /// Whether it has a container of this id.
    pub id_taken: bool,
    /// Whether it has a container of this name.
    pub name_taken: bool,
    /// Those of the container's networks that exist there.
    pub networks: BTreeMap<String, Network>,
    /// Addresses of its own running containers, by container name.
    pub addresses: Vec<(String, Vec<IpAddr>)>,
    /// Published ports of the container that cannot be bound, with the reason.
    pub busy_ports: Vec<(PublishedPort, String)>,
    /// Those of the container's volumes whose names are taken there.
    pub volumes: Vec<String>,
    /// The AppArmor profiles that are loaded.
    pub profiles: BTreeSet<String>,
    /// Whether Podman can load its own profiles.
    pub loads_profiles: bool,
    /// Whether the container's runtime is there, by name or path.
    pub runtime_found: bool,
    /// Podman's directories.
    pub places: Option<Places>,
    /// Free space where Podman keeps containers and images.
    pub storage: Room,
    /// Free space where Podman keeps volumes.
    pub volume_storage: Room,
    /// What it has at the path of the container's [`crate::container::ContainerFacts::init`].
    pub init: Option<InitProgram>,
    /// What it has of the container's service.
    pub service: Option<ServiceHere>,
}
