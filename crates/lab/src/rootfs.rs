use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{SUITE, cached, debian};

/// Packages of every host.
pub(crate) const PACKAGES: &[&str] = &[
    "aardvark-dns",
    "ca-certificates",
    "catatonit",
    "conmon",
    "conntrack",
    "criu",
    "crun",
    "iperf3",
    "iproute2",
    "iptables",
    "iputils-ping",
    "libcriu2",
    "netavark",
    "netcat-openbsd",
    "nftables",
    "podman",
    "procps",
    "python3-minimal",
    "redis-tools",
    "runc",
    "tcpdump",
    "wireguard-tools",
];

const OPTIONS: &[&str] = &[
    "--variant=minbase",
    "--aptopt=Apt::Install-Recommends \"false\"",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
];

/// What a host needs that no package provides. The cgroup2 hierarchy has no controllers beside v1,
/// so there are no limits; there is no systemd and no journal.
const FILES: &[(&str, &str)] = &[
    (
        "etc/containers/containers.conf",
        "[containers]\n\
         log_driver = \"k8s-file\"\n\
         pids_limit = 0\n\
         \n\
         [engine]\n\
         cgroup_manager = \"cgroupfs\"\n\
         events_logger = \"file\"\n\
         runtime = \"runc\"\n\
         \n\
         [network]\n\
         firewall_driver = \"nftables\"\n",
    ),
    ("etc/resolv.conf", "# There is no name server in a lab.\n"),
];

/// The directory that is the root file system of every namespace host, below its own disk: built
/// from Debian's packages if there is none for this recipe yet. It is complete, shared and never
/// written to, and also good for making container images from. Nothing removes it.
pub fn rootfs() -> Result<PathBuf> {
    cached("rootfs", &recipe(), |dir, lock| {
        let log = dir.with_extension("log");
        eprintln!(
            "building the hosts' root file system, once (log: {})",
            log.display()
        );
        build(dir, lock, PACKAGES, &log)
    })
}

/// Additional packages of a host with services.
const SERVICES: &[&str] = &["dbus", "libpam-systemd", "systemd", "systemd-sysv"];

/// Settings for such a host that are due to the machine rather than to the kind of host: the
/// cgroup2 hierarchy has no controllers beside v1, so there are no limits, and CRIU must not look
/// at v1.
const SERVICES_FILES: &[(&str, &str)] = &[
    (
        "etc/containers/containers.conf",
        "[containers]\npids_limit = 0\n",
    ),
    ("etc/criu/default.conf", "cgroup-dump-controller \"\"\n"),
    // The first boot gives the host its own.
    ("etc/machine-id", ""),
];

/// The root file system of namespace hosts with services, like [`rootfs`].
pub(crate) fn with_services() -> Result<PathBuf> {
    let packages = [PACKAGES, SERVICES].concat();
    let recipe = format!("{SUITE} {packages:?} {OPTIONS:?} {SERVICES_FILES:?}");
    cached("services", &recipe, |dir, lock| {
        let log = dir.with_extension("log");
        eprintln!(
            "building the root file system of hosts with services, once (log: {})",
            log.display()
        );
        debian(SUITE, dir, lock, OPTIONS, &packages, &log)?;
        write(dir, SERVICES_FILES)
    })
}

/// What is in every root file system, to identify one that is built from it.
pub(crate) fn recipe() -> String {
    format!("{SUITE} {PACKAGES:?} {OPTIONS:?} {FILES:?}")
}

/// Builds a root file system of these packages into `dir`.
pub(crate) fn build(dir: &Path, lock: &File, packages: &[&str], log: &Path) -> Result<()> {
    debian(SUITE, dir, lock, OPTIONS, packages, log)?;
    write(dir, FILES)
}

fn write(dir: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (path, contents) in files {
        let at = dir.join(path);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent).with_context(|| (*path).to_owned())?;
        }
        fs::write(&at, contents).with_context(|| (*path).to_owned())?;
    }
    Ok(())
}
