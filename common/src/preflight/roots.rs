//! Podman's directories.

use super::{Checks, DestinationFacts};
use crate::container::ContainerFacts;

/// Podman restores from the configuration that it generated at the source, and adapts only the path of
/// the root file system (`restore` in libpod's container_internal_common.go). But /etc/hosts and the
/// like are bound from below the run root, /dev/shm from below the graph root, and volumes from the
/// volume path.
pub(super) fn roots(checks: &mut Checks, container: &ContainerFacts, facts: &DestinationFacts) {
    let Some(here) = &facts.places else { return };
    let there = &container.roots;
    for (name, option, there, here) in [
        (
            "graph root",
            "graphroot in storage.conf",
            &there.graph,
            &here.graph_root,
        ),
        (
            "run root",
            "runroot in storage.conf",
            &there.run,
            &here.run_root,
        ),
        (
            "volume path",
            "volume_path in containers.conf",
            &there.volumes,
            &here.volumes,
        ),
    ] {
        let Some(there) = there else { continue };
        let same = there.trim_end_matches('/') == here.trim_end_matches('/');
        checks.expect(
            name,
            same,
            match same {
                true => here.clone(),
                false => format!("{there} at the source, {here} here"),
            },
            &format!("podman restores with the source's paths: they must be the same ({option})"),
        );
    }
}
