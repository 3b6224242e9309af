//! What this host finds out about itself for the preflight checks. Changes nothing.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use common::command;
use common::container::facts::PublishedPort;
use common::container::init::InitProgram;
use common::container::podman::info::Places;
use common::container::podman::list::Listed;
use common::container::service::ServiceHere;
use common::container::{ContainerFacts, apparmor, podman};
use common::host::Room;
use common::net::flows::port_forward::Forward;
use common::net::flows::port_forwards;
use common::net::foreign_firewalls::{self, Obstacle, Part};
use common::net::state::Dirs;
use common::preflight::DestinationFacts;
use tokio::task::spawn_blocking;

/// Collects the facts that [`common::preflight::destination`] judges. What cannot be found out
/// counts as absent, and so fails the check that needs it.
pub async fn destination_facts(container: &ContainerFacts) -> DestinationFacts {
    let forwards = spawn_blocking(|| port_forwards::list(&Dirs::default())).await;
    let forwards = forwards.ok().and_then(Result::ok).unwrap_or_default();
    let service = async {
        match &container.service {
            Some(service) => service.look_here().await.map(Some),
            None => Ok(None),
        }
    };
    let (image, containers, networks, volumes, places, service) = tokio::join!(
        podman::exists("image", &container.image_id),
        podman::list::list(),
        podman::objects::networks(),
        podman::objects::volumes(),
        podman::info::places(),
        service,
    );
    let addresses = match &containers {
        Ok(containers) => podman::inspect::addresses_in_use(containers).await,
        Err(_) => Ok(Vec::new()),
    };
    let taken = |is: fn(&Listed, &ContainerFacts) -> bool| match &containers {
        Ok(containers) => containers.iter().any(|listed| is(listed, container)),
        Err(_) => true,
    };
    let mut networks = networks.unwrap_or_default();
    networks.retain(|name, _| container.networks.iter().any(|n| n.name == *name));
    let mut wanted: Vec<_> = container.volumes.iter().map(|v| v.name.clone()).collect();
    if let Ok(volumes) = volumes {
        wanted.retain(|name| volumes.contains(name));
    }
    let room = |of: fn(&Places) -> &String| match &places {
        Ok(places) => Room::at(Path::new(of(places))),
        Err(_) => Room::default(),
    };
    DestinationFacts {
        image_present: image.unwrap_or(false),
        id_taken: taken(|listed, container| listed.id == container.id),
        name_taken: taken(|listed, container| listed.name == container.name),
        networks,
        addresses: addresses.unwrap_or_default(),
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
        volumes: wanted,
        profiles: apparmor::loaded().unwrap_or_default(),
        loads_profiles: apparmor::has_parser(),
        init: container.init.as_ref().and_then(|init| {
            let here = InitProgram::at(&init.path);
            here.ok().filter(|here| here.path == init.path)
        }),
        // If it cannot be asked, there is no working systemd.
        service: service.unwrap_or(Some(ServiceHere {
            no_systemd: true,
            ..ServiceHere::default()
        })),
        runtime_found: command::find(&container.runtime).is_some(),
        storage: room(|places| &places.graph_root),
        volume_storage: room(|places| &places.volumes),
        places: places.ok(),
    }
}

/// What blocks the container's connections on this host; with `new`, also what blocks new
/// connections that are to follow it.
pub async fn obstacles(container: &ContainerFacts, new: bool) -> Vec<Obstacle> {
    let (bridges, addresses) = (bridges(container).await, container.addresses());
    spawn_blocking(move || {
        foreign_firewalls::obstacles(Part::Destination(&bridges), &addresses, new)
    })
    .await
    .unwrap_or_default()
}

/// The bridges of the container's networks that have one. Podman delays its answer while it creates a
/// container in one of them.
pub async fn bridges(container: &ContainerFacts) -> Vec<String> {
    let known = podman::objects::networks().await.unwrap_or_default();
    let joined = container.networks.iter();
    let found = joined.filter_map(|network| known.get(&network.name)?.bridge.clone());
    found.collect()
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
        // Podman binds the address as well.
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
