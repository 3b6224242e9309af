//! What preflight's rules examine besides the container and the two hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::container::binds::Here;
use crate::container::facts::PublishedPort;
use crate::container::init::InitProgram;
use crate::container::podman::info::Info;
use crate::container::podman::objects::Network;
use crate::container::secrets::SecretFacts;
use crate::container::service::ServiceHere;
use crate::host::Room;

/// What the destination found out about itself for this container.
#[derive(Debug, Clone, Default)]
pub struct DestinationFacts {
    /// Whether the image is in its store.
    pub image_present: bool,
    /// Whether the image has the container's name for it there.
    pub image_named: bool,
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
    /// What it has for the container's bind mounts, by where they are in the container.
    pub binds: BTreeMap<String, Here>,
    /// The AppArmor profiles that are loaded.
    pub profiles: BTreeSet<String>,
    /// Whether Podman can load its own profiles.
    pub loads_profiles: bool,
    /// Whether the container's runtime is there, by name or path.
    pub runtime_found: bool,
    /// What Podman says of itself, if it runs.
    pub podman: Option<Info>,
    /// The processors that programs can run on.
    pub processors: BTreeSet<u32>,
    /// Its memory nodes.
    pub memory_nodes: BTreeSet<u32>,
    /// The controllers of cgroups that it has.
    pub controllers: BTreeSet<String>,
    /// What it has free in huge pages, in bytes, by the size of the page in bytes.
    pub huge_pages: BTreeMap<u64, u64>,
    /// Free space where Podman keeps containers and images.
    pub storage: Room,
    /// Free space where Podman keeps volumes.
    pub volume_storage: Room,
    /// Bytes of memory that may come ahead of the outage.
    pub memory_room_bytes: u64,
    /// What it has at the path of the container's [`crate::container::ContainerFacts::init`].
    pub init: Option<InitProgram>,
    /// The container's own kernel parameters that its kernel does not have.
    pub unknown_sysctls: Vec<String>,
    /// Those secrets that it has under the names of the container's.
    pub secrets: Vec<SecretFacts>,
    /// What it has of the container's service.
    pub service: Option<ServiceHere>,
}
