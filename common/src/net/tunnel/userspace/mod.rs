//! WireGuard in this process, for kernels without it (see docs/userspace-wireguard.md).

mod tun;
mod udp;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use gotatun::device::uapi::UapiServer;
use gotatun::device::{self, Device};

/// Where `wg` and `wireguard-control` look for the sockets of userspace implementations.
const SOCKET_DIR: &str = "/var/run/wireguard";

/// The userspace implementation could not start.
#[derive(Debug, thiserror::Error)]
pub enum UserspaceError {
    /// The TUN device cannot be made.
    #[error("cannot create the TUN device {interface}: {source}")]
    Tun {
        /// Its name.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// The configuration socket cannot be made.
    #[error("cannot listen on {SOCKET_DIR}/{interface}.sock: {reason}")]
    Socket {
        /// The interface's name.
        interface: String,
        /// Why.
        reason: String,
    },
    /// WireGuard cannot start.
    #[error(transparent)]
    Device(#[from] device::Error),
}

/// Creates the TUN device and its configuration socket, and moves packets until the device is
/// deleted or the future is dropped. The device, its addresses and its routes vanish with it.
pub async fn run(interface: &str) -> Result<(), UserspaceError> {
    let no_socket = |reason: String| UserspaceError::Socket {
        interface: interface.into(),
        reason,
    };
    // Whoever can connect can read the private key.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(SOCKET_DIR)
        .map_err(|error| no_socket(error.to_string()))?;
    let (to_kernel, from_kernel) =
        tun::create(interface).map_err(|source| UserspaceError::Tun {
            interface: interface.into(),
            source,
        })?;
    // The socket comes after the device: it is what others wait for.
    let uapi = UapiServer::default_unix_socket(interface, None, None)
        .map_err(|error| no_socket(format!("{error:#}")))?;
    let mut device: Device<_> = device::build()
        .with_uapi(uapi)
        .with_udp(udp::Factory::default())
        .with_ip_pair(to_kernel, from_kernel)
        .build()
        .await?;
    device.wait().await;
    Ok(())
}

/// The configuration socket of an interface.
pub fn socket(interface: &str) -> PathBuf {
    PathBuf::from(SOCKET_DIR).join(format!("{interface}.sock"))
}

/// Removes what the implementation leaves behind when it ends: its socket.
pub fn clean(interface: &str) -> io::Result<()> {
    match fs::remove_file(socket(interface)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
