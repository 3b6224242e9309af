//! What this host finds out about itself for the preflight checks. Changes nothing.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use common::command::{self, CommandError};
use common::container::binds::{Allowed, Here, Volume};
use common::container::facts::PublishedPort;
use common::container::init::InitProgram;
use common::container::podman::info::Info;
use common::container::podman::list::Listed;
use common::container::podman::objects::Network;
use common::container::restore::pager;
use common::container::service::ServiceHere;
use common::container::{ContainerFacts, apparmor, podman, secrets};
use common::host::{self, Room, huge_pages, processors};
use common::net::flows::port_forward::Forward;
use common::net::flows::port_forwards;
use common::net::foreign_firewalls::{self, Obstacle, Part};
use common::net::kernel::sysctl;
use common::net::state::Dirs;
use common::preflight::DestinationFacts;
use tokio::task::spawn_blocking;

/// Collects the facts that [`common::preflight::destination`] judges, and what blocks the container's
/// connections on this host; what is `allowed` its peers may bind. With `forward_new`, also what blocks new ones that are to follow it. What
/// cannot be found out counts as absent, and so fails the check that needs it.
pub async fn survey(
    container: &ContainerFacts,
    allowed: &Allowed,
    forward_new: bool,
) -> (DestinationFacts, Vec<Obstacle>) {
    let forwards = spawn_blocking(|| port_forwards::list(&Dirs::default())).await;
    let forwards = forwards.ok().and_then(Result::ok).unwrap_or_default();
    let containers = async {
        let listed = podman::list::list().await?;
        let present = podman::inspect::present(&container.image_id, &listed).await;
        Ok::<_, CommandError>((listed, present.unwrap_or_default()))
    };
    let networks = async {
        let networks = networks_of(container).await;
        let obstacles = obstacles(container, &networks, forward_new).await;
        (networks, obstacles)
    };
    let (containers, (networks, obstacles), volumes, podman, service, secrets, binds, image_named) = tokio::join!(
        containers,
        networks,
        taken_volumes(container),
        podman::info::info(),
        service(container),
        secrets::here(&container.id, &container.secrets),
        binds(container, allowed),
        image_named(container),
    );
    let present = containers.as_ref().map(|(_, present)| present);
    let taken = |is: fn(&Listed, &ContainerFacts) -> bool| match &containers {
        Ok((listed, _)) => listed.iter().any(|listed| is(listed, container)),
        Err(_) => true,
    };
    let room = |of: fn(&Info) -> &String| match &podman {
        Ok(podman) => Room::at(Path::new(of(podman))),
        Err(_) => Room::default(),
    };
    let facts = DestinationFacts {
        image_present: present.is_ok_and(|present| present.image),
        image_named,
        id_taken: taken(|listed, container| listed.id == container.id),
        name_taken: taken(|listed, container| listed.name == container.name),
        networks,
        addresses: present.map_or(Vec::new(), |present| present.addresses.clone()),
        busy_ports: container
            .ports
            .iter()
            .filter_map(|port| {
                let mut forwards = forwards.iter().map(|(_, forward)| forward);
                let forward = forwards.find(|f| f.ports.contains(port));
                // The forward gives the port up when its container comes back.
                if forward.is_some_and(|f| f.container.id == container.id) {
                    return None;
                }
                Some((port.clone(), why_busy(port, forward)?))
            })
            .collect(),
        volumes,
        binds,
        profiles: apparmor::loaded().unwrap_or_default(),
        loads_profiles: apparmor::has_parser(),
        memory_room_bytes: pager::room_bytes(),
        huge_pages: huge_pages::free(),
        processors: processors::online(),
        memory_nodes: processors::memory_nodes(),
        controllers: host::controllers(),
        init: container.init.as_ref().and_then(|init| {
            let here = InitProgram::at(&init.path);
            here.ok().filter(|here| here.path == init.path)
        }),
        unknown_sysctls: sysctl::unknown(&container.sysctls),
        secrets: secrets.unwrap_or_default(),
        service,
        runtime_found: command::find(&container.runtime).is_some(),
        storage: room(|podman| &podman.graph_root),
        volume_storage: room(|podman| &podman.volumes),
        podman: podman.ok(),
    };
    (facts, obstacles)
}

/// Those of the container's volumes that exist already. Podman is not asked if it has none.
async fn taken_volumes(container: &ContainerFacts) -> Vec<String> {
    let mut wanted: Vec<_> = container.volumes.iter().map(|v| v.name.clone()).collect();
    if wanted.is_empty() {
        return wanted;
    }
    if let Ok(volumes) = podman::objects::volumes().await {
        wanted.retain(|name| volumes.contains(name));
    }
    wanted
}

/// Whether this host has an image under the container's name for it. Podman is asked only if it matters.
async fn image_named(container: &ContainerFacts) -> bool {
    let named = podman::exists("image", &container.image_name);
    container.is_image_pinned() && named.await.unwrap_or_default()
}

/// What this host has for each of the container's bind mounts. What cannot be looked at counts as absent and
/// not allowed.
async fn binds(container: &ContainerFacts, allowed: &Allowed) -> BTreeMap<String, Here> {
    let (binds, allowed) = (container.binds.clone(), allowed.clone());
    let volumes = kept_volumes(container).await;
    let look = move || {
        let here = binds
            .iter()
            .filter_map(|bind| match Here::look(bind, &allowed) {
                Ok(mut here) => {
                    let same_name =
                        |kept: &&Volume| bind.volume.as_ref().is_some_and(|v| v.name == kept.name);
                    here.volume = volumes.iter().find(same_name).cloned();
                    Some((bind.destination.clone(), here))
                }
                Err(error) => {
                    tracing::warn!("{}: {error}", bind.there().display());
                    None
                }
            });
        here.collect()
    };
    spawn_blocking(look).await.unwrap_or_default()
}

/// What this host has under the names of those of the container's volumes that it is to keep.
async fn kept_volumes(container: &ContainerFacts) -> Vec<Volume> {
    let kept = container
        .binds
        .iter()
        .filter_map(|bind| bind.volume.as_ref());
    let names: Vec<&str> = kept.map(|volume| volume.name.as_str()).collect();
    let found = podman::objects::volumes_named(&names).await;
    found.unwrap_or_default()
}

/// What this host has of the container's service, if it has one. If systemd cannot be asked, it does not
/// work here.
async fn service(container: &ContainerFacts) -> Option<ServiceHere> {
    let here = container.service.as_ref()?.look_here().await;
    let no_systemd = ServiceHere {
        no_systemd: true,
        ..ServiceHere::default()
    };
    Some(here.unwrap_or(no_systemd))
}

async fn obstacles(
    container: &ContainerFacts,
    networks: &BTreeMap<String, Network>,
    new: bool,
) -> Vec<Obstacle> {
    let (bridges, addresses) = (bridges_of(networks), container.addresses());
    spawn_blocking(move || {
        foreign_firewalls::obstacles(Part::Destination(&bridges), &addresses, new)
    })
    .await
    .unwrap_or_default()
}

/// The bridges of the container's networks that have one. Podman delays its answer while it creates a
/// container in one of them.
pub async fn bridges(container: &ContainerFacts) -> Vec<String> {
    bridges_of(&networks_of(container).await)
}

/// Those of the container's networks that this host has.
async fn networks_of(container: &ContainerFacts) -> BTreeMap<String, Network> {
    let mut networks = podman::objects::networks().await.unwrap_or_default();
    networks.retain(|name, _| container.networks.iter().any(|n| n.name == *name));
    networks
}

fn bridges_of(networks: &BTreeMap<String, Network>) -> Vec<String> {
    let bridges = networks.values().map(|network| network.bridge.clone());
    bridges.flatten().collect()
}

/// Binds the port as Podman will, and releases it at once.
fn why_busy(port: &PublishedPort, forward: Option<&Forward>) -> Option<String> {
    let address = SocketAddr::new(
        port.host_address
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        port.host_port,
    );
    let bound = match port.protocol.as_str() {
        "tcp" => TcpListener::bind(address).map(drop),
        "udp" => UdpSocket::bind(address).map(drop),
        _ => return None,
    };
    bound.err().map(|error| match error.kind() {
        ErrorKind::AddrInUse => match forward {
            None => "something else uses it; stop that".to_owned(),
            Some(Forward { container, .. }) => format!(
                "new connections to it go to {0}, which has moved away: `agent-client forward \
                 remove {0}`",
                container.name
            ),
        },
        // Podman will try to bind it as well.
        ErrorKind::AddrNotAvailable => format!(
            "this host does not have the address {0}; publish the port at all addresses, give this \
             host the address, or allow it to use one that it has yet to get: `sysctl -w \
             net.{1}.ip_nonlocal_bind=1`",
            address.ip(),
            if address.is_ipv4() { "ipv4" } else { "ipv6" }
        ),
        _ => error.to_string(),
    })
}
