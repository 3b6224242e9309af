//! What the first process of a virtual machine does instead of systemd, until it becomes the same
//! do-nothing init that namespace hosts have.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};

use super::link::FAR;
use crate::mounts::attach;
use crate::{init, switch};

/// Where the second disk has been unpacked.
const SEED: &str = "/run/lab";

/// In the seed: the host's name, the content of its `/etc/hosts`, and `ip` commands for its
/// network.
pub(crate) const NAME: &str = "hostname";
pub(crate) const NAMES: &str = "hosts";
pub(crate) const NETWORK: &str = "network";

/// Modules that udev loads on a real host, or for which systemd makes a device. All others are
/// loaded when they are first needed.
const MODULES: &[&str] = &["virtio_net", "tun", "fuse"];

/// Where commands run, below the root cgroup: as in a namespace host.
const COMMANDS: &str = "/sys/fs/cgroup/commands";
const INIT: &str = "/sys/fs/cgroup/init";

/// Turns the virtual machine into a host and becomes its init. Only its first process may call
/// this.
pub(crate) fn run() -> Result<()> {
    ensure!(
        std::process::id() == 1,
        "only for virtual machines of a lab"
    );
    file_systems()?;
    let seed = |name| {
        let path = Path::new(SEED).join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let name = seed(NAME)?;
    nix::unistd::sethostname(&name)?;
    fs::write("/etc/hostname", format!("{name}\n"))?;
    fs::write("/etc/hosts", seed(NAMES)?)?;

    let mut modprobe = Command::new("modprobe");
    let status = modprobe.arg("-a").args(MODULES).status()?;
    ensure!(status.success(), "modprobe: {status}");
    let listener = listen()?;
    switch::fresh_sysctls()?;
    switch::accept_addresses()?;
    switch::ip(&seed(NETWORK)?)?;

    cgroups()?;
    let agent = Command::new(Path::new(SEED).join("lab"))
        .args(["machine", "agent"])
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .spawn()
        .context("cannot start the agent")?;
    let procs = Path::new(COMMANDS).join("cgroup.procs");
    fs::write(procs, agent.id().to_string())?;
    let [program, arguments @ ..] = init::CATATONIT;
    Err(Command::new(program).args(arguments).exec()).context(program)
}

/// Mounts what is not mounted yet: `/proc`, `/sys`, `/dev` and `/run` are.
fn file_systems() -> Result<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for directory in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        fs::create_dir_all(directory)?;
    }
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let terminals = "gid=5,mode=620,ptmxmode=666";
    for (kind, at, flags, options) in [
        ("cgroup2", "/sys/fs/cgroup", quiet, ""),
        ("devpts", "/dev/pts", MsFlags::MS_NOSUID, terminals),
        ("tmpfs", "/dev/shm", plain, "mode=1777"),
        ("mqueue", "/dev/mqueue", quiet, ""),
        ("tmpfs", "/tmp", plain, "mode=1777"),
    ] {
        attach(kind, at, kind, flags, options)?;
    }
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        symlink(target, link).context(link)?;
    }
    // As systemd sets it up on a real host.
    attach("none", "/", "", MsFlags::MS_REC | MsFlags::MS_SHARED, "")
}

/// Creates the agent's socket, in a network namespace that contains its link and that only the
/// socket keeps alive.
pub(super) fn listen() -> Result<TcpListener> {
    let listen = || -> Result<TcpListener> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let here = nix::unistd::gettid();
        let status = Command::new("nsenter")
            .args(["--net=/proc/1/ns/net", "ip", "link", "set", "eth1", "netns"])
            .arg(here.to_string())
            .status()?;
        ensure!(status.success(), "cannot move eth1: {status}");
        switch::ip(&format!(
            "link set dev eth1 up
             addr add {}/30 dev eth1",
            FAR.ip()
        ))?;
        Ok(TcpListener::bind(FAR)?)
    };
    thread::scope(|scope| scope.spawn(listen).join())
        .map_err(|_| anyhow!("the thread that makes the agent's socket panicked"))?
        .context("cannot make the agent's socket")
}

/// The same cgroups as in a namespace host, and all controllers for those that Podman creates.
fn cgroups() -> Result<()> {
    for path in [INIT, COMMANDS] {
        fs::create_dir(path).context(path)?;
    }
    fs::write(Path::new(INIT).join("cgroup.procs"), "1")?;
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
    let all: String = controllers
        .split_whitespace()
        .map(|name| format!("+{name} "))
        .collect();
    fs::write(root.join("cgroup.subtree_control"), all).context("cannot turn controllers on")
}
