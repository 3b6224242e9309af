use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const CACHE: &str = "/var/cache/live-migration-lab";

/// The oldest suite whose CRIU works on current kernels; its Release file is past its date.
const SUITE: &str = "forky";

const MIRROR: &str = "http://deb.debian.org/debian";

const PACKAGES: &[&str] = &[
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
    "--aptopt=Acquire::Check-Valid-Until \"false\"",
    "--aptopt=Apt::Install-Recommends \"false\"",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
];

/// What a host needs that no package brings. The cgroup2 hierarchy has no controllers beside v1, so
/// no limits; there is no systemd and no journal.
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

/// The directory that is every host's root file system below its own disk: built from Debian's
/// packages if there is none for this recipe yet. It is complete, shared and never written to; it
/// serves as well to make container images from. Nothing removes it.
pub fn rootfs() -> Result<PathBuf> {
    let recipe = format!("{SUITE} {MIRROR} {PACKAGES:?} {OPTIONS:?} {FILES:?}");
    let hash = blake3::hash(recipe.as_bytes()).to_hex();
    let done = Path::new(CACHE).join(format!("rootfs-{}", &hash[..16]));
    if done.exists() {
        return Ok(done);
    }
    fs::create_dir_all(CACHE).with_context(|| format!("cannot create {CACHE}"))?;
    let lock = File::create(Path::new(CACHE).join("lock"))?;
    lock.lock()?;
    // Somebody may have built it while this process waited.
    if !done.exists() {
        let building = done.with_extension("building");
        if building.exists() {
            fs::remove_dir_all(&building)
                .context("cannot remove an unfinished root file system")?;
        }
        build(&building, &lock)?;
        fs::rename(&building, &done)?;
    }
    Ok(done)
}

/// Builds into `dir`. The lock goes to the builder as its stdin, so that it is held until the
/// builder ends even if this process is killed before.
fn build(dir: &Path, lock: &File) -> Result<()> {
    let log = dir.with_extension("log");
    eprintln!(
        "building the hosts' root file system, once (log: {})",
        log.display()
    );
    let output = File::create(&log)?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(OPTIONS)
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(SUITE)
        .arg(dir)
        .arg(MIRROR)
        .stdin(lock.try_clone()?)
        .stdout(output.try_clone()?)
        .stderr(output);
    // In a mount namespace of its own: what it mounts goes with it, even if it is killed.
    let private = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?;
        Ok(())
    };
    // SAFETY: it makes only system calls and allocates nothing.
    unsafe { mmdebstrap.pre_exec(private) };
    let status = mmdebstrap
        .status()
        .context("cannot start mmdebstrap; scripts/lab installs it")?;
    if !status.success() {
        bail!("mmdebstrap failed ({status}); see {}", log.display());
    }
    for (path, contents) in FILES {
        fs::write(dir.join(path), contents).with_context(|| (*path).to_owned())?;
    }
    Ok(())
}
