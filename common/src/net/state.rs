//! What is on disk about the tunnels of this host.
//!
//! All files are in `Dirs::run`, and gone after a reboot like the kernel objects they describe:
//!
//! | file | what |
//! |---|---|
//! | `tunnels/lmwgN.json` | the record: written before anything is made, removed after everything is gone |
//! | `tunnels/lmwgN.ticket` | the secret that a peer must present before the keeper talks to it |
//! | `tunnels/lmwgN.forwards` | [`crate::net::flows::port_forwards`] |
//! | `tunnels/lmwgN.guests` | [`crate::net::flows::guests`] |
//! | `tunnels/lmwgN.lock` | locked (flock): shared by each lease, exclusively to take the tunnel down |
//! | `tunnels/lmwgN.keeper` | locked by the keeper while it lives |
//! | `tunnels/lmwgN.stay` | locked by the keeper as long as the other end asks that the tunnel stays |
//! | `tunnels/lmwgN.log` | the keeper's log |
//! | `net.lock` | locked while any tunnel is made or removed |
//! | `waiting.lock` | locked, shared, while packets of this host wait ([`super::packets::keep_order`]) |

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use trust::Fingerprint;

use super::mark::Index;
use super::tunnel::agreement::{Agreement, PublicKey, View};
use super::tunnel::wireguard::Backend;
use crate::durable;
use crate::lock::{Lock, LockError};
use crate::paths;
use crate::ticket::Ticket;

/// Where the host's key and the records of tunnels are.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// Kept across reboots: the WireGuard key.
    pub state: PathBuf,
    /// Gone after a reboot: records and locks.
    pub run: PathBuf,
}

impl Default for Dirs {
    fn default() -> Self {
        Self {
            state: paths::STATE_DIR.into(),
            run: paths::RUN_DIR.into(),
        }
    }
}

impl Dirs {
    fn tunnels(&self) -> PathBuf {
        self.run.join("tunnels")
    }

    pub(crate) fn file(&self, index: Index, extension: &str) -> PathBuf {
        self.tunnels()
            .join(index.interface())
            .with_extension(extension)
    }

    pub(crate) fn log(&self, index: Index) -> PathBuf {
        self.file(index, "log")
    }

    /// Locked, shared, by leases.
    pub(crate) fn lease(&self, index: Index) -> PathBuf {
        self.file(index, "lock")
    }

    /// Locked by the tunnel's keeper.
    pub(crate) fn keeper(&self, index: Index) -> PathBuf {
        self.file(index, "keeper")
    }

    /// Locked by the tunnel's keeper while the other end asks that it stays.
    pub(crate) fn stay(&self, index: Index) -> PathBuf {
        self.file(index, "stay")
    }

    /// The forwards that use the tunnel.
    pub(crate) fn forwards(&self, index: Index) -> PathBuf {
        self.file(index, "forwards")
    }

    /// The containers that came through the tunnel.
    pub(crate) fn guests(&self, index: Index) -> PathBuf {
        self.file(index, "guests")
    }

    /// Says that packets of this host's namespace wait in a queue, until it is dropped. Nobody has a reason to
    /// hold up the caller, who must have locked [`Self::lock_all`]: so do those who ask for [`Self::none_wait`].
    pub(crate) fn some_wait(&self) -> Result<Option<Lock>, LockError> {
        Lock::try_shared(&self.waiting())
    }

    /// Nothing if packets of this host's namespace wait. Otherwise none begin to, until it is dropped. When any
    /// hook of netfilter is removed, as with a tunnel's chains, the kernel drops all packets that are queued in its
    /// namespace (`__nf_unregister_net_hook` in net/netfilter/core.c). The caller must have locked
    /// [`Self::lock_all`].
    pub(crate) fn none_wait(&self) -> Result<Option<Lock>, LockError> {
        Lock::try_exclusive(&self.waiting())
    }

    fn waiting(&self) -> PathBuf {
        self.run.join("waiting.lock")
    }

    /// Waits for the lock on all tunnels: only its owner may make, change or remove one.
    pub(crate) fn lock_all(&self) -> Result<Lock, LockError> {
        Lock::exclusive(&self.run.join("net.lock"))
    }
}

pub(crate) fn file_error(path: PathBuf, source: io::Error) -> StateError {
    StateError::File { path, source }
}

/// A tunnel's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// One of them.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agreement on record does not name this host's key.
    #[error("the other host agreed to a tunnel that is not for this host")]
    NotOurs,
}

/// What is on disk about a tunnel: enough for any process to take it down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The tunnel's number on this host.
    pub index: Index,
    /// What both ends have agreed on.
    pub agreement: Agreement,
    /// This host's key when the tunnel was made.
    pub public_key: PublicKey,
    /// The other host's address and UDP port.
    pub endpoint: SocketAddr,
    /// Which WireGuard moves the packets.
    pub backend: Backend,
    /// The other host's key as a client of this one, if it has asked for the tunnel as that: no other may.
    pub client: Option<Fingerprint>,
    /// The other host's key as a server that this one has asked, likewise.
    pub server: Option<Fingerprint>,
    /// Hosts, by their WireGuard keys, past which flows were led into this tunnel.
    pub introduced_by: Vec<PublicKey>,
}

/// On whose word a tunnel is made or used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The other end, which has asked this host and is paired.
    Client(Fingerprint),
    /// The other end, which this host has asked.
    Server(Fingerprint),
    /// A host between the two ends, with this WireGuard key: the other end need not be paired.
    Introduced(PublicKey),
}

impl Record {
    pub(crate) fn read(dirs: &Dirs, index: Index) -> Result<Option<Self>, StateError> {
        read(&dirs.file(index, "json"))
    }

    pub(crate) fn read_all(dirs: &Dirs) -> Result<Vec<Self>, StateError> {
        Index::all()
            .filter_map(|index| Self::read(dirs, index).transpose())
            .collect()
    }

    /// That of the tunnel to the host that has asked for it with this key.
    ///
    /// # Errors
    /// Those of the records.
    pub fn of_client(dirs: &Dirs, key: Fingerprint) -> Result<Option<Self>, StateError> {
        let all = Self::read_all(dirs)?;
        Ok(all.into_iter().find(|record| record.client == Some(key)))
    }

    pub(crate) fn write(&self, dirs: &Dirs) -> Result<(), StateError> {
        write(&dirs.file(self.index, "json"), self)
    }

    pub(crate) fn remove(&self, dirs: &Dirs) -> Result<(), StateError> {
        remove_file(&dirs.forwards(self.index))?;
        remove_file(&dirs.guests(self.index))?;
        remove_file(&dirs.file(self.index, "ticket"))?;
        remove_file(&dirs.file(self.index, "json"))
    }

    /// The agreement as seen from this end.
    ///
    /// # Errors
    /// [`StateError::NotOurs`].
    pub fn view(&self) -> Result<View, StateError> {
        let view = self.agreement.view(&self.public_key);
        view.ok_or(StateError::NotOurs)
    }

    /// Adds who asks for the tunnel. Says whether that is new.
    pub(crate) fn claim(&mut self, claim: &Claim) -> bool {
        match claim {
            Claim::Client(key) => self.client.replace(*key) != Some(*key),
            Claim::Server(key) => self.server.replace(*key) != Some(*key),
            Claim::Introduced(by) if self.introduced_by.contains(by) => false,
            Claim::Introduced(by) => {
                self.introduced_by.push(by.clone());
                true
            }
        }
    }

    /// Whether `claim` may use the tunnel: `known` says that the other end has its half of it already.
    pub(crate) fn admits(&self, claim: &Claim, known: bool) -> bool {
        match claim {
            Claim::Client(key) => self.client.is_none_or(|client| client == *key),
            Claim::Server(key) => self.server.is_none_or(|server| server == *key),
            Claim::Introduced(by) => known || self.introduced_by.contains(by),
        }
    }

    /// Whether the other end has asked for the tunnel, or was asked.
    pub(crate) fn is_owned(&self) -> bool {
        self.client.is_some() || self.server.is_some()
    }

    pub(crate) fn exists(dirs: &Dirs, index: Index) -> bool {
        dirs.file(index, "json").exists()
    }
}

/// The secret that the keepers of a tunnel present to each other; `None` if there is no such tunnel.
pub(crate) fn ticket(dirs: &Dirs, index: Index) -> Result<Option<Ticket>, StateError> {
    read(&dirs.file(index, "ticket"))
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let failed = |source| file_error(path.into(), source);
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| failed(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Replaces a file with one that only root can read. The caller must have locked [`Dirs::lock_all`].
pub(crate) fn write(path: &Path, content: &impl Serialize) -> Result<(), StateError> {
    serde_json::to_vec(content)
        .map_err(io::Error::from)
        .and_then(|content| durable::replace(path, 0o600, &content))
        .map_err(|source| file_error(path.into(), source))
}

fn remove_file(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file_error(path.into(), error))
        }
        _ => Ok(()),
    }
}
