//! Enters a host to run one command there.
//!
//! A process that joins a pid namespace does not itself become part of it; only its children do. So
//! between fork and exec the child forks once more. The inner process is created in the host's
//! cgroup, joins the other namespaces and becomes the command. The outer one stays behind under the
//! id that the caller knows, forwards signals to the command and passes on its exit status.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use crate::cgroup::Cgroup;
use crate::pidfd;

/// Flag of clone3(2): create the child in the cgroup given by a descriptor.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Signals sent to the outer process that are meant for the command.
pub(crate) const HANDED_IN: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// A running host, opened so that a child can enter it without allocating.
#[derive(Debug)]
pub(crate) struct Door {
    init: OwnedFd,
    cgroup: File,
}

impl Door {
    /// Opens the host whose init is the only process in `init`; commands will run in `cgroup`.
    /// Fails with ESRCH if the host is not running.
    pub(crate) fn open(init: &Cgroup, cgroup: &Cgroup) -> io::Result<Self> {
        Ok(Self {
            init: pidfd::of_only(init)?,
            cgroup: File::open(cgroup.path())?,
        })
    }

    /// Makes the caller, a child before exec, the keeper of a new process in the host; returns only
    /// in that process. Only calls functions that are safe between fork and exec.
    pub(crate) fn enter(&self) -> io::Result<()> {
        setns(&self.init, CloneFlags::CLONE_NEWPID)?;
        let mut waited_for: SigSet = HANDED_IN.into_iter().collect();
        waited_for.add(Signal::SIGCHLD);
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&waited_for), Some(&mut before))?;

        match self.fork()? {
            0 => {
                sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
                setns(
                    &self.init,
                    CloneFlags::CLONE_NEWNS
                        | CloneFlags::CLONE_NEWNET
                        | CloneFlags::CLONE_NEWUTS
                        | CloneFlags::CLONE_NEWIPC
                        | CloneFlags::CLONE_NEWCGROUP,
                )?;
                nix::unistd::chdir(c"/root")?;
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                close_on_exec()
            }
            command => keep(command, &waited_for),
        }
    }

    /// fork(2) into the host's cgroup. Moving a process there afterwards would wait for an RCU
    /// grace period, tens of milliseconds.
    fn fork(&self) -> io::Result<libc::pid_t> {
        // SAFETY: all-zero is a valid clone_args: no flags, no descriptors, no stack.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = CLONE_INTO_CGROUP;
        args.exit_signal = libc::SIGCHLD as u64;
        args.cgroup = self.cgroup.as_raw_fd() as u64;
        // SAFETY: without CLONE_VM this is fork(2); the child goes on with a copy of this stack,
        // and until exec both sides call only functions that are safe after a fork.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of_val(&args)) };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            pid => Ok(pid as libc::pid_t),
        }
    }
}

/// Marks all descriptors but stdin, stdout and stderr to be closed by exec: a daemon started in a
/// host must not hold a pipe or a lock of whoever ran the command.
pub(crate) fn close_on_exec() -> io::Result<()> {
    // SAFETY: this closes nothing now, and concerns only the process that is about to exec.
    match unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for the command, forwards signals to it, and exits as it did (128 + N if signal N ended
/// it).
fn keep(command: libc::pid_t, waited_for: &SigSet) -> ! {
    // Readers of the command's output must see its end when the command closes it, and the caller
    // waits on a pipe until exec closes it; this process has copies of both.
    // SAFETY: nothing below uses a descriptor, and no destructor of an owner will run.
    unsafe { libc::close_range(0, u32::MAX, 0) };
    loop {
        // SAFETY: all-zero is a valid siginfo_t to be filled in.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: both point to live values of the right type.
        let signal = unsafe { libc::sigwaitinfo(waited_for.as_ref(), &mut info) };
        if signal == libc::SIGCHLD {
            let mut status = 0;
            // SAFETY: status is a live c_int.
            if unsafe { libc::waitpid(command, &mut status, libc::WNOHANG) } == command {
                let code = if libc::WIFEXITED(status) {
                    libc::WEXITSTATUS(status)
                } else {
                    128 + libc::WTERMSIG(status)
                };
                // SAFETY: ends the process without running what the forked-from program
                // registered for its own exit.
                unsafe { libc::_exit(code) };
            }
        } else if signal > 0 && info.si_code <= 0 {
            // Sent by a process. A signal from a terminal (si_code > 0) reached the command as
            // well.
            // SAFETY: the command has not been waited for, so the number is still its own.
            unsafe { libc::kill(command, signal) };
        }
    }
}
