//! The programs that both hosts need, and their versions.

use super::Checks;
use crate::host::{HostFacts, version_numbers};

/// Oldest CRIU known to work: earlier ones fail on kernels since 6.15 (vDSO layout).
const OLDEST_CRIU: (u32, u32, u32) = (4, 0, 0);

/// Oldest Podman known to work.
const OLDEST_PODMAN: (u32, u32, u32) = (4, 4, 0);

/// Whether the host has what a container with this runtime needs.
pub(super) fn programs(checks: &mut Checks, host: &HostFacts, runtime: &str) {
    let mut program = |name: &str, found: Option<&String>, oldest: Option<(u32, u32, u32)>| {
        let recent = |v: &String| oldest.is_none_or(|o| version_numbers(v) >= o);
        let advice = match oldest {
            Some((major, minor, _)) => format!("install {name} {major}.{minor} or newer"),
            None => format!("install {name}, the container's runtime"),
        };
        checks.expect(
            name,
            found.is_some_and(recent),
            found.map_or("missing or does not run", String::as_str),
            &advice,
        );
    };
    program("podman", host.podman.as_ref(), Some(OLDEST_PODMAN));
    program("criu", host.criu.as_ref(), Some(OLDEST_CRIU));
    program(runtime, host.runtimes.get(runtime), None);
    for (feature, problem) in &host.features {
        checks.expect(
            feature,
            problem.is_none(),
            problem.as_deref().unwrap_or("works"),
            "this host cannot take part without it",
        );
    }
}
