//! What only the source can check.

use super::apart;
use super::binds;
use super::force::overrule;
use super::log::log;
use super::memory;
use super::programs::programs;
use super::room::{Wanted, room};
use super::service;
use super::volumes;
use super::{Check, Checks, Side, Verdict, list_or_none, short};
use crate::container::ContainerFacts;
use crate::container::ports::{MOST_RANGES, PublishedPort, ranges};
use crate::host::HostFacts;

/// Checks that only need the source.
pub fn source(container: &ContainerFacts, host: &HostFacts) -> Vec<Check> {
    let mut checks = Checks {
        host: Side::Source,
        found: Vec::new(),
    };
    programs(&mut checks, host, container.runtime_name());
    checks.expect(
        "state",
        container.state == "running",
        container.state.clone(),
        match container.state.as_str() {
            "paused" => "unpause it first (`podman unpause`)",
            _ => "only a running container can move live; start it, or copy a stopped one with `podman container export` and `import`",
        },
    );
    if container.user_namespace {
        checks.add(
            "users",
            Verdict::Failed,
            "it has its own user namespace (--userns, --uidmap, --gidmap): Podman cannot restore a network for \
             such a container; start it without",
        );
    }
    checks.expect(
        "pod",
        container.pod.is_none(),
        match &container.pod {
            None => "not in a pod".into(),
            Some(pod) => format!("in pod {}", short(pod)),
        },
        "a container of a pod cannot move alone; pods are not supported",
    );
    checks.expect(
        "namespaces",
        container.dependencies.is_empty(),
        if container.dependencies.is_empty() {
            "its own".to_owned()
        } else {
            format!("needs {}", container.dependencies.join(", "))
        },
        "Podman restores no container that shares namespaces with others or was created with --requires: \
         create it without",
    );
    checks.expect(
        "exec sessions",
        container.exec_sessions == 0,
        container.exec_sessions.to_string(),
        "an exec session cannot move: end it first",
    );
    checks.expect(
        "terminal",
        !container.terminal,
        if container.terminal {
            "attached (-t)"
        } else {
            "none"
        },
        "CRIU cannot restore a container's terminal: run it without -t",
    );
    checks.expect(
        "devices",
        container.devices.is_empty(),
        list_or_none(&container.devices),
        "host devices do not exist elsewhere",
    );
    binds::at_source(&mut checks, container);
    checks.expect(
        "root file system",
        container.overlay,
        if container.overlay {
            "overlay"
        } else {
            "not an overlay"
        },
        "only containers made from an image on overlay storage can move",
    );
    let drivers: Vec<&str> = container
        .networks
        .iter()
        .map(|n| n.driver.as_str())
        .collect();
    checks.expect(
        "network mode",
        container.network_mode == "bridge" && drivers.iter().all(|d| *d == "bridge"),
        if drivers.is_empty() {
            container.network_mode.clone()
        } else {
            format!("{} ({})", container.network_mode, drivers.join(", "))
        },
        match container.network_mode.as_str() {
            "none" => {
                "its loopback interface, too, would be down after the restore: create it with a network that leads \
                 nowhere (`podman network create --internal`)"
            }
            _ => "only bridge networks can move: the addresses of others belong to the host",
        },
    );
    volumes::at_source(&mut checks, container);
    checks.expect(
        "image",
        container.image_bytes > 0,
        if container.image_bytes > 0 {
            container.image_name.clone()
        } else {
            format!("{} is not in the local store", container.image_name)
        },
        "pull it on either host first: it cannot be sent",
    );
    ports(&mut checks, &container.ports);
    log(&mut checks, container);
    apart::at_source(&mut checks, container);
    // CRIU writes all memory here before it is sent.
    let images = Wanted {
        what: "memory",
        bytes: container.memory_bytes,
        room: &host.scratch,
    };
    room(&mut checks, &[images]);
    memory::at_source(&mut checks, container, host);
    service::at_source(&mut checks, container.service.as_ref());
    overrule(container, &mut checks.found);
    checks.found
}

/// So many that a message has no room for them are refused.
fn ports(checks: &mut Checks, published: &[PublishedPort]) {
    let count = ranges(published).len();
    if count > MOST_RANGES {
        checks.add(
            "ports",
            Verdict::Failed,
            format!(
                "it publishes {} ports that do not follow each other, in {count} ranges of which \
                 {MOST_RANGES} can move: publish ranges",
                published.len()
            ),
        );
    }
}
