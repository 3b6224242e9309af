//! What this host finds out about itself for preflight. Changes nothing.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use common::container::facts::PublishedPort;
use common::container::init::InitProgram;
use common::container::service::ServiceHere;
use common::container::{ContainerFacts, apparmor, podman};
use common::net::forward::{self, Obstacle, Part};
use common::net::published::{self, Forward};
use common::net::tunnel::Dirs;
use common::preflight::DestinationFacts;
use tokio::task::spawn_blocking;

/// Gathers what [`common::preflight::destination`] judges. What cannot be found out counts as
/// absent, and so fails the check it belongs to.
pub async fn destination_facts(container: &ContainerFacts) -> DestinationFacts {
    let mut networks = BTreeMap::new();
    for network in &container.networks {
        if let Ok(Some(found)) = podman::network_subnets(&network.name).await {
            networks.insert(network.name.clone(), found);
        }
    }
    let mut volumes = Vec::new();
    for volume in &container.volumes {
        if podman::exists("volume", &volume.name).await.unwrap_or(true) {
            volumes.push(volume.name.clone());
        }
    }
    let forwards = spawn_blocking(|| published::list(&Dirs::default())).await;
    let forwards = forwards.ok().and_then(Result::ok).unwrap_or_default();
    let service = async {
        match &container.service {
            Some(service) => service.look_here().await.map(Some),
            None => Ok(None),
        }
    };
    let (image, id, name, addresses, root, service) = tokio::join!(
        podman::exists("image", &container.image_id),
        podman::exists("container", &container.id),
        podman::exists("container", &container.name),
        podman::addresses_in_use(),
        podman::graph_root(),
        service,
    );
    DestinationFacts {
        image_present: image.unwrap_or(false),
        id_taken: id.unwrap_or(true),
        name_taken: name.unwrap_or(true),
        networks,
        addresses: addresses.unwrap_or_default(),
        busy_ports: container
            .ports
            .iter()
            .filter_map(|port| {
                let mut forwards = forwards.iter().map(|(_, forward)| forward);
                let forward = forwards.find(|f| f.ports.contains(port));
                // It gives the port up when its container comes back.
                if forward.is_some_and(|f| f.container.id == container.id) {
                    return None;
                }
                Some((port.clone(), why_busy(port, forward)?))
            })
            .collect(),
        volumes,
        profiles: apparmor::loaded().unwrap_or_default(),
        loads_profiles: apparmor::has_parser(),
        init: container.init.as_ref().and_then(|init| {
            let here = InitProgram::at(&init.path);
            here.ok().filter(|here| here.path == init.path)
        }),
        free_bytes: root.map(|r| free_bytes(Path::new(&r))).unwrap_or(0),
        // One that cannot be asked has no systemd that works.
        service: service.unwrap_or(Some(ServiceHere {
            no_systemd: true,
            ..ServiceHere::default()
        })),
    }
}

/// What stands in the way of the container's connections on this host, with `new` also of those that
/// are to follow it.
pub async fn obstacles(container: &ContainerFacts, new: bool) -> Vec<Obstacle> {
    let (bridges, addresses) = (bridges(container).await, container.addresses());
    spawn_blocking(move || forward::obstacles(Part::Destination(&bridges), &addresses, new))
        .await
        .unwrap_or_default()
}

/// The bridges of the container's networks, as far as they have any. Podman waits with the answer while
/// it creates a container in one of them.
pub async fn bridges(container: &ContainerFacts) -> Vec<String> {
    let mut bridges = Vec::new();
    for network in &container.networks {
        bridges.extend(podman::network_bridge(&network.name).await.ok().flatten());
    }
    bridges
}

fn free_bytes(path: &Path) -> u64 {
    nix::sys::statvfs::statvfs(path)
        .map(|s| s.blocks_available() * s.fragment_size())
        .unwrap_or(0)
}

/// Binds the port as Podman will, and lets go of it at once.
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
        // Podman binds it as well.
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
