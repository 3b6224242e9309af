//! What the destination must have, and what must not be in the way there.

use super::apart;
use super::binds;
use super::confinement::confinement;
use super::cpu::{cpu, cpusets};
use super::facts::DestinationFacts;
use super::force::overrule;
use super::memory;
use super::programs::{pair, programs};
use super::room::{Wanted, room};
use super::roots::roots;
use super::service;
use super::volumes;
use super::{Check, Checks, Side, Verdict, join};
use crate::container::ContainerFacts;
use crate::container::ports::ranges;
use crate::host::HostFacts;

/// A runtime fails if there is no controller for a limit.
fn limits(checks: &mut Checks, container: &ContainerFacts, facts: &DestinationFacts) {
    if container.controllers.is_empty() {
        return;
    }
    let missing = container.controllers.difference(&facts.controllers);
    let missing: Vec<String> = missing.cloned().collect();
    let needed: Vec<String> = container.controllers.iter().cloned().collect();
    checks.expect(
        "limits",
        missing.is_empty(),
        match missing.is_empty() {
            true => join(&needed),
            false => format!("there is no cgroup controller {}", join(&missing)),
        },
        "the container's limits need it (`--memory`, `--pids-limit` and the like): boot with          `cgroup_enable=memory`, or what your distribution says, or start the container without the limit",
    );
}

/// Checks about the destination.
pub fn destination(
    container: &ContainerFacts,
    source: &HostFacts,
    host: &HostFacts,
    facts: &DestinationFacts,
) -> Vec<Check> {
    let mut checks = Checks {
        host: Side::Destination,
        found: Vec::new(),
    };
    programs(&mut checks, host, container.runtime_name());
    cpu(&mut checks, container, source, host);
    cpusets(&mut checks, container, facts);
    limits(&mut checks, container, facts);
    confinement(&mut checks, container, source, host, facts);
    pair(&mut checks, source, host);
    if container.runtime != container.runtime_name() {
        checks.expect(
            "runtime's path",
            facts.runtime_found,
            container.runtime.clone(),
            "the container was created with this path as its runtime, and there is nothing here",
        );
    }
    roots(&mut checks, container, facts);
    checks.expect(
        "container id",
        !facts.id_taken,
        if facts.id_taken { "taken" } else { "free" },
        "a container with this id exists here; remove it (`podman rm`)",
    );
    checks.expect(
        "container name",
        !facts.name_taken,
        format!(
            "{} is {}",
            container.name,
            if facts.name_taken { "taken" } else { "free" }
        ),
        "rename or remove the one here (`podman rename`, `podman rm`)",
    );
    for network in &container.networks {
        match facts.networks.get(&network.name) {
            None => checks.add(
                "network",
                Verdict::Failed,
                format!(
                    "there is no network {}: create it with `podman network create{} {}`",
                    network.name,
                    network
                        .subnets
                        .iter()
                        .map(|s| format!(" --subnet {s}"))
                        .collect::<String>(),
                    network.name
                ),
            ),
            Some(there) if there.driver != network.driver => checks.add(
                "network",
                Verdict::Failed,
                format!(
                    "{} is a {} network here and a {} network at the source: remove it and create it with \
                     the source's driver",
                    network.name, there.driver, network.driver
                ),
            ),
            Some(there) => checks.expect(
                "network",
                network
                    .addresses
                    .iter()
                    .all(|a| there.subnets.iter().any(|s| s.contains(a))),
                format!("{} {}", network.name, join(&there.subnets)),
                &format!(
                    "the container's addresses ({}) must be in the network of the same name; create it \
                     with the source's subnets ({})",
                    join(&network.addresses),
                    join(&network.subnets)
                ),
            ),
        }
        for address in &network.addresses {
            let holder = facts
                .addresses
                .iter()
                .find(|(_, addresses)| addresses.contains(address));
            checks.expect(
                "address",
                holder.is_none(),
                match holder {
                    None => format!("{address} is free"),
                    Some((name, _)) => format!("{address} is used by container {name}"),
                },
                "stop that container, or move it to another address",
            );
        }
    }
    for (port, reason) in &facts.busy_ports {
        checks.add(
            "port",
            Verdict::Failed,
            format!("{port} cannot be published here: {reason}"),
        );
    }
    if facts.busy_ports.is_empty() && !container.ports.is_empty() {
        checks.add(
            "ports",
            Verdict::Ok,
            format!("{} free", join(&ranges(&container.ports))),
        );
    }
    volumes::at_destination(&mut checks, container, facts);
    checks.add(
        "image present",
        Verdict::Ok,
        if facts.image_present {
            container.image_name.clone()
        } else {
            format!(
                "no; will be sent ({})",
                crate::units::bytes(container.image_bytes)
            )
        },
    );
    if container.is_image_pinned() && !facts.image_named {
        checks.add(
            "image name",
            Verdict::Warning,
            format!(
                "{}: Podman can give an image no digest, so here the container knows it by its id; pull it here \
                 first to keep the name",
                container.image_name
            ),
        );
    }
    // The image takes up to twice its space while it is loaded. Memory counts once, as images: Podman
    // keeps those with the container. What is in /dev/shm is memory at both ends, and counted as such.
    let image = match facts.image_present {
        true => 0,
        false => container.image_bytes.saturating_mul(2),
    };
    let mut wanted = vec![Wanted {
        what: "image, files and memory",
        bytes: image
            .saturating_add(container.changed_bytes)
            .saturating_add(container.memory_bytes),
        room: &facts.storage,
    }];
    if !container.volumes.is_empty() {
        wanted.push(Wanted {
            what: "volumes",
            bytes: container.volume_bytes,
            room: &facts.volume_storage,
        });
    }
    wanted.extend(binds::wanted(container, facts));
    room(&mut checks, &wanted);
    memory::at_destination(&mut checks, container, facts);
    binds::at_destination(&mut checks, container, facts);
    if let Some(init) = &container.init {
        checks.expect(
            "init program",
            facts.init.as_ref() == Some(init),
            match &facts.init {
                Some(here) if here == init => init.path.display().to_string(),
                Some(_) => format!("{} is another build", init.path.display()),
                None => format!("there is no {}", init.path.display()),
            },
            "the container runs the source's one (--init): install the same version of its package on \
             both hosts",
        );
    }
    apart::at_destination(&mut checks, container, facts);
    service::at_destination(
        &mut checks,
        container.service.as_ref(),
        facts.service.as_ref(),
    );
    overrule(container, &mut checks.found);
    checks.found
}
