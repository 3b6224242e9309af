//! The programs that both hosts need, and their versions.

use super::{Checks, Verdict};
use crate::host::{HostFacts, version_numbers};

/// Oldest CRIU known to work: earlier ones fail on kernels from 6.15 on (vDSO layout).
const OLDEST_CRIU: (u32, u32, u32) = (4, 0, 0);

/// Oldest Podman known to work.
const OLDEST_PODMAN: (u32, u32, u32) = (4, 4, 0);

/// From this kernel (6.16) on, SO_PASSCRED and SO_PASSSEC are refused on sockets of families other
/// than AF_UNIX, AF_NETLINK and AF_BLUETOOTH. A CRIU that reads them from every socket cannot dump
/// sockets of other families ("Can't get 1:16 opt"). `criu check` does not notice. Fixed in 4.2:
/// "criu/sockets: Restrict SO_PASSCRED and SO_PASSSEC to supported families",
/// <https://github.com/checkpoint-restore/criu/issues/2705>.
const RESTRICTED_OPTIONS: (u32, u32, u32) = (6, 16, 0);

/// Oldest CRIU for such a kernel.
const CRIU_FOR_RESTRICTED_OPTIONS: (u32, u32, u32) = (4, 2, 0);

/// Versions of Podman that leave /etc/hosts and /etc/resolv.conf of a restored container empty:
/// from the first that writes them when the network is set up, up to the first whose `restore` does
/// so as well. <https://github.com/containers/podman/issues/22901>, fixed by
/// <https://github.com/containers/podman/pull/23083> and in 5.1.2.
const EMPTY_HOSTS: std::ops::Range<(u32, u32, u32)> = (5, 0, 0)..(5, 1, 2);

/// Whether the host has the programs that a container with this runtime needs.
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
    if let Some(problem) = host.runtime_problems.get(runtime) {
        checks.add(runtime, Verdict::Failed, problem);
    }
    if let Some(criu) = &host.criu
        && version_numbers(&host.kernel) >= RESTRICTED_OPTIONS
        && (OLDEST_CRIU..CRIU_FOR_RESTRICTED_OPTIONS).contains(&version_numbers(criu))
    {
        checks.add(
            "criu for this kernel",
            Verdict::Failed,
            format!(
                "criu {criu} cannot dump sockets on Linux {}: install criu 4.2 or newer",
                host.kernel
            ),
        );
    }
    for (feature, problem) in &host.features {
        checks.expect(
            feature,
            problem.is_none(),
            problem.as_deref().unwrap_or("works"),
            "this host cannot take part without it",
        );
    }
}

/// Whether the destination's programs can read what the `source`'s programs write.
pub(super) fn pair(checks: &mut Checks, source: &HostFacts, host: &HostFacts) {
    if let Some(podman) = &host.podman
        && EMPTY_HOSTS.contains(&version_numbers(podman))
    {
        checks.add(
            "podman's restore",
            Verdict::Failed,
            format!(
                "podman {podman} leaves /etc/hosts and /etc/resolv.conf of a restored container empty: \
                 install podman 5.1.2 or newer"
            ),
        );
    }
    // If it is too old, that has already been reported.
    let recent = |criu: &&String| version_numbers(criu) >= OLDEST_CRIU;
    let (Some(written), Some(read)) = (&source.criu, host.criu.as_ref().filter(recent)) else {
        return;
    };
    let minor = |version: &str| {
        let (major, minor, _) = version_numbers(version);
        (major, minor)
    };
    // A newer CRIU reads an older one's images, but not the other way round: the format only grows.
    checks.expect(
        "criu's images",
        minor(written) <= minor(read),
        format!("written by criu {written}, read by criu {read}"),
        "an older criu cannot read them; install the same version here",
    );
}
