//! The first process of a host. The host lives as long as it does; it reaps what daemons leave
//! behind.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, fork, setsid};

use crate::enter::close_on_exec;

/// A process that does nothing but reap its children, by its path in the host's root.
pub(crate) const CATATONIT: [&str; 2] = ["/usr/bin/catatonit", "-P"];

/// In a host: what identifies this boot of it.
pub(crate) const BOOT_ID: &CStr = c"/run/boot_id";

/// One that starts services.
pub(crate) const SYSTEMD: [&str; 1] = ["/usr/lib/systemd/systemd"];

/// Starts the host's init from a thread that is already in all of the host's namespaces except pid
/// and cgroup. `host` and `leaf` are the entrances of the host's cgroup and of the cgroup for its
/// init alone. The init is not a child of the caller and outlives it. It enters `leaf` as its last
/// step, so a host with a process there is complete.
///
/// If there is a file [`BOOT_ID`], that is what the kernel says there. Otherwise it is what the machine's kernel has
/// said since the machine's boot.
pub(crate) fn start(program: &[&str], host: File, leaf: File) -> Result<()> {
    let mut command = Command::new(program[0]);
    command
        .args(&program[1..])
        .env_clear()
        // Tells this systemd that it is not the machine's (systemd.io/CONTAINER_INTERFACE).
        .env("container", "lab")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec it makes only system calls, and allocates nothing.
    unsafe { command.pre_exec(move || become_init(&host, &leaf)) };
    // The child ends when it has forked; that does not end the init.
    let done = command.status().context("cannot start the host's init")?;
    ensure!(done.success(), "the host's init was not started: {done}");
    Ok(())
}

/// Forks into new pid and cgroup namespaces and goes on in the fork as their first process.
fn become_init(mut host: &File, mut leaf: &File) -> io::Result<()> {
    // Before unshare: the cgroup that a process is in then becomes the root of its cgroup
    // namespace.
    host.write_all(b"0")?;
    unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWPID)?;
    // SAFETY: this process has one thread, the copy of the one that called fork.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        // SAFETY: ends the process without running the exit handlers of the program it is a copy of.
        unsafe { libc::_exit(0) };
    }
    setsid()?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for (kind, at) in [(c"proc", c"/proc"), (c"cgroup2", c"/sys/fs/cgroup")] {
        mount(Some(kind), at, Some(kind), quiet, None::<&CStr>)?;
    }
    let id = c"/proc/sys/kernel/random/boot_id";
    match mount(
        Some(BOOT_ID),
        id,
        None::<&CStr>,
        MsFlags::MS_BIND,
        None::<&CStr>,
    ) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    close_on_exec()?;
    leaf.write_all(b"0")
}
