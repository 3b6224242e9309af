//! The host's WireGuard key, and the configuration of a tunnel's interface.
//!
//! The kernel's WireGuard and our userspace one are configured alike through `wireguard-control`:
//! over generic netlink, or through the socket that [`crate::net::tunnel::userspace`] serves.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use wireguard_control::{Device, DeviceUpdate, InterfaceName, Key, PeerConfigBuilder};

use super::agreement::{PublicKey, View};

/// The largest IP packet inside the tunnel, in bytes: 1500 less 80 for an outer IPv6 header (40),
/// UDP (8) and WireGuard (32). The default of wg-quick(8).
pub const MTU: u32 = 1420;

/// Seconds between packets that keep firewalls and address translators on the way open, and tell
/// each end when the other's address changes. The value WireGuard's documentation recommends.
const KEEPALIVE: u16 = 25;

const KEY_FILE: &str = "wireguard.key";

/// Which WireGuard moves the tunnel's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The kernel's own WireGuard.
    Kernel,
    /// The implementation in this program, run by the tunnel's keeper.
    Userspace,
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Backend::Kernel => "kernel",
            Backend::Userspace => "userspace",
        })
    }
}

impl From<Backend> for wireguard_control::Backend {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Kernel => wireguard_control::Backend::Kernel,
            Backend::Userspace => wireguard_control::Backend::Userspace,
        }
    }
}

/// A WireGuard key or interface could not be used.
#[derive(Debug, thiserror::Error)]
pub enum WireguardError {
    /// The key file cannot be read or made.
    #[error("cannot use the WireGuard key {path}: {source}")]
    Key {
        /// The key file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Not a public key.
    #[error("{0:?} is not a WireGuard public key")]
    PublicKey(String),
    /// The interface cannot be read or configured.
    #[error("cannot configure WireGuard on {interface}: {source}")]
    Interface {
        /// Its name.
        interface: String,
        /// Why.
        source: io::Error,
    },
}

/// A host's private key. It has no `Debug`, is never sent and never logged.
pub struct PrivateKey(Key);

impl PrivateKey {
    /// Reads the host's key from `state`, or makes it there: mode 0600, in a directory of mode
    /// 0700, complete or not at all. Concurrent callers get the same key.
    pub fn load_or_create(state: &Path) -> Result<Self, WireguardError> {
        let path = state.join(KEY_FILE);
        let failed = |source| WireguardError::Key {
            path: path.display().to_string(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(failed)?;
        match Self::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            read => return read.map_err(failed),
        }
        Self::create(&path).map_err(failed)?;
        Self::read(&path).map_err(failed)
    }

    fn read(path: &Path) -> io::Result<Self> {
        let mut text = String::new();
        File::open(path)?.read_to_string(&mut text)?;
        Key::from_base64(text.trim())
            .map(Self)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a WireGuard key"))
    }

    fn create(path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(Key::generate_private().to_base64().as_bytes())?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
            _ => Ok(()),
        }
    }

    /// The key that others may know.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.get_public().to_base64())
    }
}

/// Gives an existing interface its key, port and only peer.
///
/// The peer may send from and receive for any address: which packets enter the tunnel is decided
/// by marks and routes, not by WireGuard. Goes with the interface.
pub fn configure(
    interface: &str,
    backend: Backend,
    key: &PrivateKey,
    view: &View,
    endpoint: SocketAddr,
) -> Result<(), WireguardError> {
    let peer = Key::from_base64(&view.peer.public_key.0)
        .map_err(|_| WireguardError::PublicKey(view.peer.public_key.0.clone()))?;
    let peer = PeerConfigBuilder::new(&peer)
        .set_endpoint(endpoint)
        .set_persistent_keepalive_interval(KEEPALIVE)
        .replace_allowed_ips()
        .allow_all_ips();
    DeviceUpdate::new()
        .set_private_key(key.0.clone())
        .set_listen_port(view.local.port)
        .replace_peers()
        .add_peer(peer)
        .apply(&name(interface)?, backend.into())
        .map_err(|source| failed(interface, source))
}

/// When the tunnel's handshake last succeeded.
pub fn last_handshake(
    interface: &str,
    backend: Backend,
) -> Result<Option<SystemTime>, WireguardError> {
    let device =
        Device::get(&name(interface)?, backend.into()).map_err(|error| failed(interface, error))?;
    Ok(device
        .peers
        .first()
        .and_then(|peer| peer.stats.last_handshake_time))
}

fn name(interface: &str) -> Result<InterfaceName, WireguardError> {
    interface
        .parse()
        .map_err(|error: wireguard_control::InvalidInterfaceName| failed(interface, error.into()))
}

fn failed(interface: &str, source: io::Error) -> WireguardError {
    WireguardError::Interface {
        interface: interface.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| PrivateKey::load_or_create(&state).unwrap().public()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join(KEY_FILE)), 0o600);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_key_is_refused_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(KEY_FILE), "garbage").unwrap();
        assert!(PrivateKey::load_or_create(dir.path()).is_err());
        assert_eq!(
            fs::read_to_string(dir.path().join(KEY_FILE)).unwrap(),
            "garbage"
        );
    }
}
