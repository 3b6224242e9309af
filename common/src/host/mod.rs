//! What a migration needs to know about a host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::command::{self, CommandError};
use crate::container::apparmor::SecurityModule;
use crate::container::checkpoint::{freezer, page_port};
use crate::container::runtime::CGROUP_MOUNT;
use crate::net;
use crate::paths;
use serde::{Deserialize, Serialize};

mod cpu;
pub mod huge_pages;
mod libcriu;
pub mod memory;
pub mod processors;
mod room;
pub(crate) mod version;

pub use room::Room;
pub use version::version_numbers;

/// A host, as told to its peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Host name.
    pub name: String,
    /// Kernel release.
    pub kernel: String,
    /// Machine architecture, e.g. `x86_64`.
    pub architecture: String,
    /// Podman's version; absent if Podman does not run.
    pub podman: Option<String>,
    /// CRIU's version; absent if CRIU does not run.
    pub criu: Option<String>,
    /// Version of each OCI runtime installed, by name.
    pub runtimes: BTreeMap<String, String>,
    /// What keeps one of these runtimes from checkpointing, by name.
    pub runtime_problems: BTreeMap<String, String>,
    /// Number of processors that the kernel can use: more than are there if some can be added.
    pub possible_cpus: u32,
    /// Page size, in bytes.
    pub page_bytes: u64,
    /// Free space where migrations have their scratch space.
    pub scratch: Room,
    /// The security module that labels processes.
    pub security: SecurityModule,
    /// CPU feature flags, as the kernel names them.
    pub cpu_flags: BTreeSet<String>,
    /// Why memory cannot be left out of a dump here; absent if it can, or if this is not the source.
    #[serde(default)]
    pub lazy_dump_problem: Option<String>,
    /// Kernel features that are needed, each with what is wrong with it, if anything.
    pub features: BTreeMap<String, Option<String>>,
}

impl HostFacts {
    /// Gathers this host's facts. Runs a handful of programs in parallel; changes nothing.
    pub async fn gather() -> Self {
        let (podman, facts) = tokio::join!(version("podman"), Self::gather_but_podman());
        HostFacts {
            podman: podman.ok(),
            ..facts
        }
    }

    /// The same without Podman's version, for those who ask Podman for more than that.
    pub async fn gather_but_podman() -> Self {
        let (criu, runc, crun, checkpoint, network) = tokio::join!(
            version("criu"),
            version("runc"),
            version("crun"),
            checkpoint_problem(),
            tokio::task::spawn_blocking(net::tunnel::features::problems)
        );
        let mut features = network.unwrap_or_default();
        features.insert("checkpoint/restore".to_owned(), checkpoint);
        features.insert("cgroup v2".to_owned(), freezer::problem());
        let mut runtimes = BTreeMap::new();
        for (name, found) in [("runc", runc), ("crun", crun)] {
            if let Ok(found) = found {
                runtimes.insert(name.to_owned(), found);
            }
        }
        let mut runtime_problems = BTreeMap::new();
        if runtimes.contains_key("crun")
            && let Some(problem) = libcriu::problem().await
        {
            runtime_problems.insert("crun".to_owned(), problem);
        }
        let uname = nix::sys::utsname::uname().ok();
        let text = |get: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            uname
                .as_ref()
                .map(|u| get(u).to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        HostFacts {
            name: text(|u| u.nodename()),
            kernel: text(|u| u.release()),
            architecture: text(|u| u.machine()),
            podman: None,
            criu: criu.ok(),
            runtimes,
            runtime_problems,
            possible_cpus: cpu::possible(),
            page_bytes: cpu::page_bytes(),
            scratch: Room::at(Path::new(paths::STATE_DIR)),
            security: SecurityModule::of_host(),
            cpu_flags: cpu::flags(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            lazy_dump_problem: page_port::problem(),
            features,
        }
    }
}

/// The controllers that cgroups can have here: `cgroup.controllers` of
/// Documentation/admin-guide/cgroup-v2.rst.
pub fn controllers() -> BTreeSet<String> {
    let list = Path::new(CGROUP_MOUNT).join("cgroup.controllers");
    let list = std::fs::read_to_string(list).unwrap_or_default();
    list.split_ascii_whitespace().map(str::to_owned).collect()
}

/// What `criu check` says is missing from the kernel.
async fn checkpoint_problem() -> Option<String> {
    let mut command = command::new("criu");
    command.arg("check");
    match command::output_in_time(&mut command).await {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(command::failed(&command, &output).to_string()),
        Err(error) => Some(error.to_string()),
    }
}

/// The number in the first line of `program --version`.
/// Which boot of this host it is now, if that can be found out (proc_sys_kernel(5), `boot_id`).
pub fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

async fn version(program: &str) -> Result<String, CommandError> {
    let text = command::stdout(command::new(program).arg("--version")).await?;
    parse_version(&text).ok_or_else(|| CommandError::Output {
        program: program.to_owned(),
        message: text,
    })
}

fn parse_version(text: &str) -> Option<String> {
    text.lines()
        .next()?
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_programs_met() {
        for (text, expected) in [
            ("podman version 5.8.2\n", "5.8.2"),
            ("Version: 4.2.1\n", "4.2.1"),
            ("runc version 1.3.3+ds1\ncommit: x\n", "1.3.3+ds1"),
            ("crun version 1.26\ncommit: y\n", "1.26"),
        ] {
            assert_eq!(parse_version(text).as_deref(), Some(expected));
        }
        assert_eq!(parse_version("no number"), None);
    }
}
