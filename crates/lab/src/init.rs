//! The first process of a host. As long as it lives the host does; it reaps what daemons leave.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, fork, setsid};

use crate::enter::close_on_exec;

/// A process that does nothing but reap its children, found in the host's own root.
pub(crate) const CATATONIT: [&str; 2] = ["/usr/bin/catatonit", "-P"];

/// The one that starts services.
pub(crate) const SYSTEMD: [&str; 1] = ["/usr/lib/systemd/systemd"];

/// Starts the host's init from a thread that is already in all of the host's namespaces but the pid
/// and cgroup ones. `host` and `leaf` are the entrances of the host's cgroup and of the one for its
/// init alone. The init is no child of the caller and outlives it. Being in `leaf` is the last thing
/// that happens to it: a host with a process there is complete.
pub(crate) fn start(program: &[&str], host: File, leaf: File) -> Result<()> {
    let mut command = Command::new(program[0]);
    command
        .args(&program[1..])
        .env_clear()
        // By this systemd knows that it is not the machine's (systemd.io/CONTAINER_INTERFACE).
        .env("container", "lab")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec it makes only system calls, and allocates nothing.
    unsafe { command.pre_exec(move || become_init(&host, &leaf)) };
    // The child ends when it has forked; its end is not the init's.
    let done = command.status().context("cannot start the host's init")?;
    ensure!(done.success(), "the host's init was not started: {done}");
    Ok(())
}

/// Forks into new pid and cgroup namespaces and goes on in the fork as their first process.
fn become_init(mut host: &File, mut leaf: &File) -> io::Result<()> {
    // Before unshare: where a process is then becomes the root of its cgroup namespace.
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
        mount(Some(kind), at, Some(kind), quiet, None::<&std::ffi::CStr>)?;
    }
    close_on_exec()?;
    leaf.write_all(b"0")
}
