//! Work inside another network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// The namespace could not be entered.
#[derive(Debug, thiserror::Error)]
#[error("cannot enter the network namespace {path}: {source}")]
pub struct EnterError {
    path: String,
    source: io::Error,
}

/// Runs `work` on a thread of its own that has entered the network namespace at `path`
/// (`/proc/PID/ns/net`, `/run/netns/NAME`, …) and waits for it.
///
/// Sockets opened by `work` stay bound to that namespace wherever they are used later; processes
/// and threads it starts begin there. The thread ends with `work`, so nothing else of this process
/// is ever seen in the wrong namespace. `/proc/sys/net` follows the calling thread
/// (`net_ctl_root` in the kernel's net/sysctl_net.c); `/sys/class/net` does not.
///
/// # Errors
/// If the namespace does not exist, or without `CAP_SYS_ADMIN` over it.
pub fn in_netns<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, EnterError> {
    let failed = |source| EnterError {
        path: path.display().to_string(),
        source,
    };
    let namespace = File::open(path).map_err(failed)?;
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok::<T, nix::Error>(work())
        });
        match thread.join() {
            Ok(result) => result.map_err(|errno| failed(errno.into())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
