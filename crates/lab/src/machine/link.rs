//! How a virtual machine is connected: to the lab's switch, and to the machine by a link of its own
//! that only its agent and the keepers of its commands see.
//!
//! The emulator has its own network namespace with this end of that link; the other end is in a
//! namespace of the agent's in the virtual machine. So a host that is cut off can still be given
//! commands, and neither the host's network nor the machine's shows any of this.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// This end of the link to the agent.
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The agent's end.
pub(crate) const FAR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 1, 2), 1);

/// How long a running agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);

/// Creates a TAP interface in the calling thread's network namespace. It goes away with the file.
pub(crate) fn tap(device: &Path, name: &str) -> Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(device)
        .with_context(|| format!("cannot open {}", device.display()))?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: the descriptor is open, and the value live and of the right type.
    unsafe { set_interface(file.as_raw_fd(), &request) }
        .with_context(|| format!("cannot make the interface {name}"))?;
    Ok(file.into())
}

/// Connects to the agent of the virtual machine that this emulator runs.
pub(crate) fn connect(emulator: &OwnedFd) -> io::Result<TcpStream> {
    // A separate thread can leave the machine's network without taking the caller along.
    let connect = || {
        setns(emulator, CloneFlags::CLONE_NEWNET)?;
        let stream = TcpStream::connect_timeout(&FAR.into(), PATIENCE)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    thread::scope(|scope| scope.spawn(connect).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread that connects panicked")))
}
