//! What a migration needs to know of a container. Pure data; [`super::podman`] gathers it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::binds::Bind;
use super::health::HealthFacts;
use super::init::InitProgram;
use super::names;
use super::ports;
pub use super::ports::PublishedPort;
use super::secrets::SecretFacts;
use super::service::ServiceFacts;
use super::spec::Privileges;
use crate::protocol::ContainerRef;

/// A running container as its source host sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// Podman's full id.
    #[serde(deserialize_with = "names::container_id")]
    pub id: String,
    /// Podman's name.
    #[serde(deserialize_with = "names::name")]
    pub name: String,
    /// Podman's state, e.g. `running`.
    pub state: String,
    /// Full id of the image.
    #[serde(deserialize_with = "names::image_id")]
    pub image_id: String,
    /// Name the container was created with.
    #[serde(deserialize_with = "names::reference")]
    pub image_name: String,
    /// Size of the image, bytes.
    pub image_bytes: u64,
    /// Digests of its layers as they are unpacked, from the lowest up (`rootfs.diff_ids` in the OCI
    /// image specification).
    pub image_layers: Vec<String>,
    /// OCI runtime by Podman's name, e.g. `runc`, or by its path.
    #[serde(deserialize_with = "names::runtime")]
    pub runtime: String,
    /// Memory in use, bytes, without what the kernel could read again from files.
    pub memory_bytes: u64,
    /// Memory that it takes in addition if its processes no longer share what they share since they were forked, bytes.
    #[serde(default)]
    pub copied_bytes: u64,
    /// Memory that it has mapped in huge pages, by the size of the page.
    #[serde(default)]
    pub huge_pages: Vec<HugePages>,
    /// Keys in its session keyring.
    #[serde(default)]
    pub keys: u32,
    /// Address space that its processes have mapped privately, bytes, whether they use it or not.
    #[serde(default)]
    pub mapped_bytes: u64,
    /// Disk space taken by its changes to the image, bytes.
    pub changed_bytes: u64,
    /// Disk space taken by its volumes, bytes.
    pub volume_bytes: u64,
    /// Network mode, e.g. `bridge`, `host`.
    pub network_mode: String,
    /// Networks joined.
    pub networks: Vec<NetworkFacts>,
    /// Published ports. Those that follow each other should do so here: messages have them as ranges.
    #[serde(with = "ports")]
    pub ports: Vec<PublishedPort>,
    /// Named and anonymous volumes.
    pub volumes: Vec<VolumeFacts>,
    /// Directories and files of the host that are bound into it.
    pub binds: Vec<Bind>,
    /// Other mounts that are not known to move, in words.
    pub other_mounts: Vec<String>,
    /// Host devices passed in.
    pub devices: Vec<String>,
    /// Whether it may do what the host's root may (`--privileged`).
    pub privileged: bool,
    /// The kinds of namespaces of which it has the host's: `ipc`, `pid`, `uts`, `cgroup`.
    pub host_namespaces: Vec<String>,
    /// Kernel parameters of its own, by name.
    pub sysctls: BTreeMap<String, String>,
    /// What differs in its network namespace from what Podman makes, in words.
    pub network_changes: Vec<String>,
    /// The interfaces of its default routes (IPv4), the preferred one first.
    #[serde(default)]
    pub default_interfaces: Vec<String>,
    /// What its processes use that CRIU cannot dump, in words.
    pub unmovable: BTreeSet<String>,
    /// Which of `hosts`, `resolv.conf` and `hostname` in its `/etc` were changed since its start.
    pub edited: Vec<String>,
    /// Other running containers of its host that find it, and that it finds, by name.
    pub known_by_name: Vec<String>,
    /// Its secrets.
    pub secrets: Vec<SecretFacts>,
    /// Those of its secrets that nobody has the content of any more.
    pub lost_secrets: Vec<String>,
    /// The pod it belongs to, if any.
    pub pod: Option<String>,
    /// Containers whose namespaces it shares.
    pub dependencies: Vec<String>,
    /// Running `podman exec` sessions.
    pub exec_sessions: usize,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether it has a user namespace of its own (`--userns`, `--uidmap`).
    #[serde(default)]
    pub user_namespace: bool,
    /// What it may do on its host.
    pub privileges: Privileges,
    /// What runs before its own program (`--init`), if anything.
    #[serde(default)]
    pub init: Option<InitProgram>,
    /// Whether its root file system is an overlay of image layers.
    pub overlay: bool,
    /// Where its output goes.
    pub log: LogFacts,
    /// The directories that its configuration leads to.
    pub roots: Roots,
    /// The service of systemd that runs it, if one does.
    pub service: Option<ServiceFacts>,
    /// How often its health is checked, if at all.
    pub health: Option<HealthFacts>,
    /// The security module's labels that confine its processes.
    pub labels: BTreeSet<String>,
    /// Sizes of its rings for asynchronous I/O, bytes.
    pub aio_rings: BTreeSet<u64>,
    /// The only processors that it may run on; if none, all.
    #[serde(default)]
    pub processors: BTreeSet<u32>,
    /// Controllers of cgroups that its limits need.
    #[serde(default)]
    pub controllers: BTreeSet<String>,
    /// The only memory nodes that it may have memory of; if none, all.
    #[serde(default)]
    pub memory_nodes: BTreeSet<u32>,
    /// Names of the checks that its user overrules.
    #[serde(default)]
    pub forced: BTreeSet<String>,
}

/// Memory in huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// The size of a page, in bytes.
    pub page_bytes: u64,
    /// All of them, in bytes.
    pub bytes: u64,
}

/// Where a container's output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFacts {
    /// Podman's log driver, e.g. `k8s-file`.
    pub driver: String,
    /// The file, if it is not the one beside the container's configuration.
    pub path: Option<String>,
}

/// Podman's directories, as far as a container's configuration shows them. The paths in it are the ones of
/// the host that the container was created on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roots {
    /// Of images and containers.
    pub graph: Option<String>,
    /// Of what is gone after the host's next boot.
    pub run: Option<String>,
    /// Of volumes, if it has any.
    pub volumes: Option<String>,
}

/// A network of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFacts {
    /// Podman's network name.
    #[serde(deserialize_with = "names::name")]
    pub name: String,
    /// Driver, e.g. `bridge`.
    pub driver: String,
    /// The network's subnets.
    pub subnets: Vec<IpNet>,
    /// The container's addresses in it.
    pub addresses: Vec<IpAddr>,
}

/// A volume of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFacts {
    /// Podman's volume name.
    #[serde(deserialize_with = "names::name")]
    pub name: String,
    /// Where it is mounted in the container.
    #[serde(deserialize_with = "names::mount_point")]
    pub destination: String,
    /// Driver.
    #[serde(deserialize_with = "names::name")]
    pub driver: String,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether Podman made it for this container alone (`--volume /data`).
    pub anonymous: bool,
    /// Other containers on the source that use it too.
    pub shared_with: Vec<String>,
    /// Whether the user wants it sent although others use it.
    #[serde(default)]
    pub send: bool,
    /// Its directory as a bind mount, in case that it is kept.
    #[serde(skip)]
    pub bind: Option<Box<Bind>>,
}

impl ContainerFacts {
    /// Id and name.
    pub fn reference(&self) -> ContainerRef {
        ContainerRef {
            id: self.id.clone(),
            name: self.name.clone(),
        }
    }

    /// Whether the container was created with an image's digest (`NAME@sha256:…`).
    pub fn is_image_pinned(&self) -> bool {
        self.image_name.contains('@')
    }

    /// The runtime's name, without the path.
    pub fn runtime_name(&self) -> &str {
        self.runtime.rsplit('/').next().unwrap_or_default()
    }

    /// All subnets that it is in.
    pub fn subnets(&self) -> Vec<IpNet> {
        self.networks
            .iter()
            .flat_map(|n| n.subnets.iter().copied())
            .collect()
    }

    /// All addresses of the container.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.networks
            .iter()
            .flat_map(|n| n.addresses.iter().copied())
            .collect()
    }
}
