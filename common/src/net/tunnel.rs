//! A tunnel's life on one host.
//!
//! ```text
//!      source                                   destination
//!      Tunnel::offer      ──── Offer ────▶      Tunnel::accept: answer, establish
//!      Tunnel::establish  ◀──── Terms ────
//!      Tunnel::prove                            Tunnel::prove
//! ```
//!
//! A [`Tunnel`] value is a *lease*: while any process holds one, the tunnel stays. When it is
//! dropped (or its process killed) the tunnel lives on for the flows that go through it, watched by
//! its [`super::keeper`], which takes it down when it has been idle for a while.
//!
//! Files, all in `Dirs::run`, gone after a reboot like the kernel objects they describe:
//!
//! | file | what |
//! |---|---|
//! | `tunnels/lmwgN.json` | the record: written before anything is made, removed after everything is gone |
//! | `tunnels/lmwgN.ticket` | what is asked of those who want to talk to the keeper |
//! | `tunnels/lmwgN.forwards` | [`super::published`] |
//! | `tunnels/lmwgN.lock` | locked (flock), shared by leases, exclusively by who takes the tunnel down |
//! | `tunnels/lmwgN.keeper` | locked by the keeper while it lives |
//! | `tunnels/lmwgN.log` | what the keeper says |
//! | `net.lock` | locked by who makes or removes any tunnel |

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::admit;
use super::carry;
use super::echo;
use super::firewall::{self, FirewallError};
use super::keeper;
use super::mark::Index;
use super::neighbours::{self, NeighbourError};
use super::occupied::{self, OccupiedError};
use super::plan::{self, Agreement, Offer, PlanError, PublicKey, Terms, View};
use super::published;
use super::routes::{RouteError, Routes};
use super::sysctl::{self, SysctlError};
use super::upkeep::Upkeep;
use super::userspace;
use super::wireguard::{self, Backend, PrivateKey, WireguardError};
use crate::durable;
use crate::lock::{Lock, LockError};
use crate::paths;
use crate::ticket::Ticket;

/// Pause before a tunnel that is just being taken down is looked at again.
const RETRY: Duration = Duration::from_millis(50);
/// How often hosts agree on a tunnel anew because another one has taken its place.
pub const MOST_TRIES: u32 = 8;
/// How long [`Tunnel::prove`] may take in a migration.
pub const PROOF_LIMIT: Duration = Duration::from_secs(10);
/// A handshake older than this proves nothing: WireGuard has discarded its keys (REJECT_AFTER_TIME
/// in the WireGuard paper, section 6.1).
const HANDSHAKE_VALID: Duration = Duration::from_secs(180);

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

    fn file(&self, index: Index, extension: &str) -> PathBuf {
        self.tunnels()
            .join(index.interface())
            .with_extension(extension)
    }

    pub(super) fn log(&self, index: Index) -> PathBuf {
        self.file(index, "log")
    }

    /// Locked, shared, by leases.
    pub(super) fn lease(&self, index: Index) -> PathBuf {
        self.file(index, "lock")
    }

    /// Locked by the tunnel's keeper.
    pub(super) fn keeper(&self, index: Index) -> PathBuf {
        self.file(index, "keeper")
    }

    /// The forwards that use the tunnel.
    pub(super) fn forwards(&self, index: Index) -> PathBuf {
        self.file(index, "forwards")
    }

    /// Waits for this process's turn to change tunnels.
    pub(super) fn turn(&self) -> Result<Lock, LockError> {
        Lock::exclusive(&self.run.join("net.lock"))
    }
}

/// Why a tunnel could not be made, used or taken down.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// No plan was found.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The host's state could not be read.
    #[error(transparent)]
    Occupied(#[from] OccupiedError),
    /// Interface, address, route or rule.
    #[error(transparent)]
    Routes(#[from] RouteError),
    /// Neighbour entries.
    #[error(transparent)]
    Neighbours(#[from] NeighbourError),
    /// Firewall rules.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// Key or interface.
    #[error(transparent)]
    Wireguard(#[from] WireguardError),
    /// Settings of the interface.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// A lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A record.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agreement does not name this host's key and a port of ours.
    #[error("the other host agreed to a tunnel that is not for this host")]
    NotOurs,
    /// The agreed networks are not such as tunnels have.
    #[error(
        "the other host asks for a tunnel with the networks {0}, which this host does not give it"
    )]
    NotPrivate(String),
    /// Something took the agreed index since the plan was made. Negotiate again.
    #[error("tunnel {0} has been taken meanwhile: {1}")]
    Taken(Index, String),
    /// The keeper did not start.
    #[error("the tunnel's keeper did not start: {0}")]
    Keeper(String),
    /// No echo request could be sent through the tunnel.
    #[error("cannot send an ICMP echo through the tunnel: {0}")]
    Echo(io::Error),
    /// No packet comes through the underlying network.
    #[error(
        "no WireGuard handshake with {endpoint}: let UDP pass between port {port} of this host and {endpoint}, in the firewalls of both hosts and between them"
    )]
    NoHandshake {
        /// This host's UDP port.
        port: u16,
        /// The other host's address and UDP port.
        endpoint: SocketAddr,
    },
    /// The handshake succeeded, packets inside the tunnel do not come back.
    #[error(
        "the WireGuard handshake with {endpoint} succeeded, but {peer} does not answer an ICMP echo through {interface}: let traffic on {interface} pass in the firewalls of both hosts"
    )]
    NoEcho {
        /// This host's interface.
        interface: String,
        /// The other host's address and UDP port.
        endpoint: SocketAddr,
        /// The other host's address inside the tunnel.
        peer: IpAddr,
    },
}

fn file_error(path: PathBuf, source: io::Error) -> TunnelError {
    TunnelError::File { path, source }
}

/// What is written down about a tunnel: enough to take it down, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The tunnel's number on this host.
    pub index: Index,
    /// What both ends hold to.
    pub agreement: Agreement,
    /// This host's key when the tunnel was made.
    pub public_key: PublicKey,
    /// The other host's address and UDP port.
    pub endpoint: SocketAddr,
    /// Who moves the packets.
    pub backend: Backend,
}

impl Record {
    pub(super) fn read(dirs: &Dirs, index: Index) -> Result<Option<Self>, TunnelError> {
        read(&dirs.file(index, "json"))
    }

    fn read_all(dirs: &Dirs) -> Result<Vec<Self>, TunnelError> {
        Index::all()
            .filter_map(|index| Self::read(dirs, index).transpose())
            .collect()
    }

    fn write(&self, dirs: &Dirs) -> Result<(), TunnelError> {
        write(&dirs.file(self.index, "json"), self)
    }

    fn remove(&self, dirs: &Dirs) -> Result<(), TunnelError> {
        remove_file(&dirs.forwards(self.index))?;
        remove_file(&dirs.file(self.index, "ticket"))?;
        remove_file(&dirs.file(self.index, "json"))
    }

    /// This end, as both hold to it.
    pub(super) fn view(&self) -> Result<View, TunnelError> {
        let view = self.agreement.view(&self.public_key);
        view.ok_or(TunnelError::NotOurs)
    }

    pub(super) fn exists(dirs: &Dirs, index: Index) -> bool {
        dirs.file(index, "json").exists()
    }

    /// Whether the tunnel's keeper lives and its interface is there.
    fn is_alive(&self, dirs: &Dirs) -> Result<bool, TunnelError> {
        Ok(keeper::is_alive(dirs, self.index)?
            && Routes::open()?
                .interface(&self.index.interface())?
                .is_some())
    }
}

/// What the keepers of a tunnel ask of each other, if it is there.
pub(super) fn ticket(dirs: &Dirs, index: Index) -> Result<Option<Ticket>, TunnelError> {
    read(&dirs.file(index, "ticket"))
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TunnelError> {
    let failed = |source| file_error(path.into(), source);
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| failed(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Replaces a file, which only root can read. For those who have [`Dirs::turn`].
pub(super) fn write(path: &Path, content: &impl Serialize) -> Result<(), TunnelError> {
    serde_json::to_vec(content)
        .map_err(io::Error::from)
        .and_then(|content| durable::replace(path, 0o600, &content))
        .map_err(|source| file_error(path.into(), source))
}

fn remove_file(path: &Path) -> Result<(), TunnelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file_error(path.into(), error))
        }
        _ => Ok(()),
    }
}

/// How a tunnel's keeper is started: the command that ends up in [`keeper::run`] for this index
/// and the same [`Dirs`]. Its standard streams and its detachment are taken care of.
pub type KeeperCommand<'a> = &'a dyn Fn(Index) -> Command;

/// A tunnel of this host, and a lease on it.
#[derive(Debug)]
pub struct Tunnel {
    dirs: Dirs,
    record: Record,
    view: View,
    reused: bool,
    /// Shared.
    lease: Lock,
}

impl Tunnel {
    /// Source, first step: what this host has and wants. Sweeps first, so that dead tunnels are
    /// not offered.
    pub fn offer(dirs: &Dirs, keeper: KeeperCommand) -> Result<Offer, TunnelError> {
        sweep(dirs, keeper)?;
        let key = PrivateKey::load_or_create(&dirs.state)?;
        let records = Record::read_all(dirs)?;
        let occupied = occupied::gather(&indexes(&records))?;
        Ok(Offer {
            public_key: key.public(),
            port: occupied.allot()?.port(),
            prefixes: occupied.prefixes,
            ipv6: occupied.ipv6,
            tunnels: records
                .into_iter()
                .filter(|record| record.public_key == key.public())
                .map(|record| record.agreement)
                .collect(),
        })
    }

    /// Destination, first step: the tunnel to use, an existing one if possible.
    pub fn answer(dirs: &Dirs, offer: &Offer, keeper: KeeperCommand) -> Result<Terms, TunnelError> {
        sweep(dirs, keeper)?;
        let key = PrivateKey::load_or_create(&dirs.state)?;
        let records = Record::read_all(dirs)?;
        let occupied = occupied::gather(&indexes(&records))?;
        let tunnels: Vec<_> = records.into_iter().map(|record| record.agreement).collect();
        let agreement = plan::answer(offer, &key.public(), &tunnels, &occupied)?;
        let index = agreement
            .view(&key.public())
            .and_then(|view| Index::from_port(view.local.port));
        let known = match index {
            Some(index) if tunnels.contains(&agreement) => ticket(dirs, index)?,
            _ => None,
        };
        Ok(Terms {
            ticket: known.unwrap_or_else(Ticket::random),
            agreement,
        })
    }

    /// Destination: answers, and makes this host's half at once. Another tunnel may be made in
    /// between and take what was answered: then it answers anew.
    ///
    /// # Errors
    /// As [`Tunnel::answer`] and [`Tunnel::establish`].
    pub fn accept(
        dirs: &Dirs,
        offer: &Offer,
        peer: IpAddr,
        keeper: KeeperCommand,
    ) -> Result<(Self, Terms), TunnelError> {
        let mut tries = 1..=MOST_TRIES;
        loop {
            let terms = Tunnel::answer(dirs, offer, keeper)?;
            match Tunnel::establish(dirs, &terms, peer, keeper) {
                Err(TunnelError::Taken(..)) if tries.next().is_some() => {}
                established => return established.map(|tunnel| (tunnel, terms)),
            }
        }
    }

    /// Both ends: makes this host's half of the agreed tunnel, or takes a lease on the one that
    /// exists. `peer` is the other host's address as this host reaches it.
    ///
    /// The record is written before anything is made. If a step fails, everything made so far is
    /// taken down again; if this process dies, its keeper or the next [`sweep`] does that.
    pub fn establish(
        dirs: &Dirs,
        terms: &Terms,
        peer: IpAddr,
        keeper: KeeperCommand,
    ) -> Result<Self, TunnelError> {
        let agreement = &terms.agreement;
        // Before addresses are worked out of them.
        if !agreement.is_private() {
            let networks = format!("{} and {:?}", agreement.ipv4, agreement.ipv6);
            return Err(TunnelError::NotPrivate(networks));
        }
        let key = PrivateKey::load_or_create(&dirs.state)?;
        let view = agreement.view(&key.public()).ok_or(TunnelError::NotOurs)?;
        let index = Index::from_port(view.local.port).ok_or(TunnelError::NotOurs)?;
        let endpoint = SocketAddr::new(peer, view.peer.port);
        loop {
            let turn = dirs.turn()?;
            // Not to be had while the keeper looks whether there is one, or takes the tunnel down;
            // it may need its turn for that.
            let Some(lease) = Lock::try_shared(&dirs.lease(index))? else {
                drop(turn);
                thread::sleep(RETRY);
                continue;
            };
            let found = Record::read(dirs, index)?;
            let reused = found.is_some();
            let record = match found {
                None => make(dirs, index, terms, &key, &view, endpoint, keeper)?,
                Some(record) if record.agreement == *agreement && record.is_alive(dirs)? => {
                    reuse(dirs, record, &key, &view, endpoint)?
                }
                Some(record) => {
                    let whose = format!("it leads to {}", record.endpoint);
                    return Err(TunnelError::Taken(index, whose));
                }
            };
            return Ok(Tunnel {
                dirs: dirs.clone(),
                record,
                view,
                reused,
                lease,
            });
        }
    }

    /// Shows that packets come through and back, within `timeout`. Both ends may do so at once.
    pub fn prove(&self, timeout: Duration) -> Result<(), TunnelError> {
        let interface = self.interface();
        let (local, peer) = ends(&self.view)?;
        // The other end asks as well.
        if let Err(error) = admit::echo(peer.into(), local.into(), echo::IDENTIFIER) {
            tracing::debug!("{error}");
        }
        let answered = echo::round_trip(local, peer, timeout).map_err(TunnelError::Echo)?;
        if answered {
            return Ok(());
        }
        let handshake = wireguard::last_handshake(&interface, self.record.backend)?;
        if handshake.is_some_and(is_recent) {
            Err(TunnelError::NoEcho {
                interface,
                endpoint: self.record.endpoint,
                peer: peer.into(),
            })
        } else {
            Err(TunnelError::NoHandshake {
                port: self.view.local.port,
                endpoint: self.record.endpoint,
            })
        }
    }

    /// The tunnel's number on this host, for marks.
    pub fn index(&self) -> Index {
        self.record.index
    }

    /// The tunnel's interface.
    pub fn interface(&self) -> String {
        self.record.index.interface()
    }

    /// Who moves the packets.
    pub fn backend(&self) -> Backend {
        self.record.backend
    }

    /// Whether the tunnel was there already.
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// This host's IPv4 address inside the tunnel.
    pub fn local_address(&self) -> IpAddr {
        self.view.addresses[0].addr()
    }

    /// The other host's IPv4 address inside the tunnel: where bulk data goes.
    pub fn peer_address(&self) -> IpAddr {
        self.view.peer_addresses[0]
    }

    /// Gives the lease up and takes the tunnel down at once, unless somebody else has a lease or
    /// it carries flows: then it is left to its keeper. Returns whether it was taken down.
    pub fn teardown(self) -> Result<bool, TunnelError> {
        drop(self.lease);
        take_down_if_idle(&self.dirs, self.record.index)
    }
}

/// Whether a session that was agreed on then is still used.
fn is_recent(handshake: SystemTime) -> bool {
    handshake.elapsed().is_ok_and(|age| age < HANDSHAKE_VALID)
}

fn indexes(records: &[Record]) -> Vec<Index> {
    records.iter().map(|record| record.index).collect()
}

/// Uses an existing tunnel again: its peer may have another address now.
///
/// As long as the two ends hear of each other WireGuard knows where the other one is, and a name with
/// several addresses may have led to another of them this time. To be told so would cost the session of a
/// tunnel in userspace, and what goes through it stands still until the next handshake.
fn reuse(
    dirs: &Dirs,
    mut record: Record,
    key: &PrivateKey,
    view: &View,
    endpoint: SocketAddr,
) -> Result<Record, TunnelError> {
    let heard = wireguard::last_handshake(&record.index.interface(), record.backend)?;
    if record.endpoint != endpoint && !heard.is_some_and(is_recent) {
        let interface = record.index.interface();
        wireguard::configure(&interface, record.backend, key, view, endpoint)?;
        record.endpoint = endpoint;
        record.write(dirs)?;
    }
    // Its keeper may not have looked yet.
    Upkeep::of(dirs, &record)?.put_back()?;
    Ok(record)
}

/// Makes a tunnel; the caller has its turn and a lease.
fn make(
    dirs: &Dirs,
    index: Index,
    terms: &Terms,
    key: &PrivateKey,
    view: &View,
    endpoint: SocketAddr,
    keeper: KeeperCommand,
) -> Result<Record, TunnelError> {
    remove_orphan(dirs, view)?;
    let occupied = occupied::gather(&[])?;
    if let Some((_, why)) = occupied.indexes.into_iter().find(|(i, _)| *i == index) {
        return Err(TunnelError::Taken(index, why));
    }
    if terms.agreement.overlaps(&occupied.prefixes) {
        let why = "its networks are in use here".to_owned();
        return Err(TunnelError::Taken(index, why));
    }
    let mut record = Record {
        index,
        agreement: terms.agreement.clone(),
        public_key: key.public(),
        endpoint,
        backend: Backend::Userspace,
    };
    record.write(dirs)?;
    let made = write(&dirs.file(index, "ticket"), &terms.ticket)
        .and_then(|()| make_recorded(dirs, &mut record, key, view, keeper));
    if made.is_err()
        && let Err(error) = demolish(dirs, &record)
    {
        tracing::error!(interface = index.interface(), "not taken down: {error}");
    }
    made.map(|()| record)
}

/// Removes a tunnel to the same port of the same host, which has lost its half of it: that half will be this
/// one's. Left alone the orphan would have handshakes with it, since the keys are the same, and be answered
/// instead.
fn remove_orphan(dirs: &Dirs, view: &View) -> Result<(), TunnelError> {
    for record in Record::read_all(dirs)? {
        if record.view().is_ok_and(|orphan| orphan.peer == view.peer)
            && let Some(_lease) = Lock::try_exclusive(&dirs.lease(record.index))?
        {
            let interface = record.index.interface();
            tracing::warn!(interface, "the other host has lost its half of the tunnel");
            demolish(dirs, &record)?;
        }
    }
    Ok(())
}

fn make_recorded(
    dirs: &Dirs,
    record: &mut Record,
    key: &PrivateKey,
    view: &View,
    keeper: KeeperCommand,
) -> Result<(), TunnelError> {
    let interface = record.index.interface();
    let routes = Routes::open()?;
    if routes.add_wireguard(&interface)? {
        // Before the keeper starts: it reads from the record what it has to run.
        record.backend = Backend::Kernel;
        record.write(dirs)?;
    }
    keeper::spawn(dirs, record, keeper)?;
    sysctl::prepare_interface(&interface, view.addresses.len() > 1)?;
    wireguard::configure(&interface, record.backend, key, view, record.endpoint)?;
    sysctl::keeping_redirects(|| routes.configure(&interface, wireguard::MTU, &view.addresses))??;
    // Marks last, when whatever they divert has a way to go.
    routes.route(record.index, view.addresses.len() > 1)?;
    firewall::add_tunnel(record.index)?;
    tracing::info!(interface, endpoint = %record.endpoint, backend = ?record.backend, "tunnel is up");
    Ok(())
}

/// Removes everything a record stands for, newest first, and the record when all is gone: as often
/// as need be, however much of it was ever made. The caller has its turn.
fn demolish(dirs: &Dirs, record: &Record) -> Result<(), TunnelError> {
    let index = record.index;
    let interface = index.interface();
    let others = Record::read_all(dirs)?
        .iter()
        .any(|other| other.index != index);
    if others {
        firewall::remove_tunnel(index)?;
    } else {
        firewall::remove_table()?;
    }
    let flows = carry::through_tunnels().map_err(OccupiedError::from)?;
    let own = record.view().map(|view| view.addresses).unwrap_or_default();
    neighbours::hand_on_addresses(index, &own, &flows)?;
    let routes = Routes::open()?;
    routes.unroute(index)?;
    routes.delete_interface(&interface)?;
    userspace::clean(&interface)
        .map_err(|source| file_error(userspace::socket(&interface), source))?;
    // Those that were expected among them, for half a minute yet.
    admit::forget(&own).map_err(OccupiedError::from)?;
    neighbours::tidy(&flows)?;
    record.remove(dirs)?;
    tracing::info!(interface, "tunnel is down");
    Ok(())
}

/// Takes a tunnel down unless somebody has a lease on it or it carries flows or forwards.
pub(super) fn take_down_if_idle(dirs: &Dirs, index: Index) -> Result<bool, TunnelError> {
    // The lease before the turn: who has its turn never waits for a lease.
    let Some(_lease) = Lock::try_exclusive(&dirs.lease(index))? else {
        return Ok(false);
    };
    let _turn = dirs.turn()?;
    let Some(record) = Record::read(dirs, index)? else {
        return Ok(true);
    };
    if keeper::flows(index).map_err(OccupiedError::from)? > 0
        || !published::of_tunnel(dirs, index)?.is_empty()
    {
        return Ok(false);
    }
    demolish(dirs, &record)?;
    Ok(true)
}

/// Cleans up after keepers that died: a kernel tunnel gets a new keeper, a userspace tunnel has
/// died with its keeper and is removed. For the start of either agent, and before tunnels are
/// offered. Tunnels that somebody has a lease on are left alone.
pub fn sweep(dirs: &Dirs, keeper: KeeperCommand) -> Result<(), TunnelError> {
    let _turn = dirs.turn()?;
    for record in Record::read_all(dirs)? {
        let index = record.index;
        if keeper::is_alive(dirs, index)? {
            continue;
        }
        let Some(_lease) = Lock::try_exclusive(&dirs.lease(index))? else {
            continue;
        };
        let interface = index.interface();
        let there = Routes::open()?.interface(&interface)?.is_some();
        if record.backend == Backend::Kernel && there {
            tracing::warn!(interface, "the tunnel's keeper is gone: starting another");
            keeper::spawn(dirs, &record, keeper)?;
        } else {
            tracing::warn!(interface, "removing what is left of a dead tunnel");
            demolish(dirs, &record)?;
        }
    }
    Ok(())
}

/// What [`clean_up`] did with a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// What was on record.
    pub record: Record,
    /// Why it stays; none if it is gone.
    pub kept: Option<Kept>,
}

/// Why a tunnel stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It carries so many tracked connections.
    Flows(usize),
    /// It carries new connections to the containers of these names.
    Forwards(Vec<String>),
    /// A migration uses it.
    Lease,
}

impl std::fmt::Display for Cleaned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (interface, endpoint) = (self.record.index.interface(), self.record.endpoint);
        write!(f, "{interface} to {endpoint}: ")?;
        match &self.kept {
            None => write!(f, "taken down"),
            Some(Kept::Flows(1)) => write!(f, "carries a connection, and goes when that ends"),
            Some(Kept::Flows(count)) => {
                write!(f, "carries {count} connections, and goes when they end")
            }
            Some(Kept::Forwards(names)) => write!(
                f,
                "carries new connections to {} (`agent-client forward remove`)",
                names.join(", ")
            ),
            Some(Kept::Lease) => write!(f, "a migration uses it"),
        }
    }
}

/// Takes down at once what nothing needs, which keepers do a while after the last connection, and
/// what has died. What something needs is left alone, so it is safe at any time.
///
/// # Errors
/// As [`sweep`].
pub fn clean_up(dirs: &Dirs, keeper: KeeperCommand) -> Result<Vec<Cleaned>, TunnelError> {
    let before = Record::read_all(dirs)?;
    sweep(dirs, keeper)?;
    let clean = |record: Record| {
        let index = record.index;
        let kept = match take_down_if_idle(dirs, index)? {
            true => None,
            false => Some(match keeper::flows(index).map_err(OccupiedError::from)? {
                0 => match published::of_tunnel(dirs, index)? {
                    forwards if forwards.is_empty() => Kept::Lease,
                    forwards => {
                        Kept::Forwards(forwards.into_iter().map(|f| f.container.name).collect())
                    }
                },
                count => Kept::Flows(count),
            }),
        };
        Ok(Cleaned { record, kept })
    };
    before.into_iter().map(clean).collect()
}

/// Waits until an echo has come back through a tunnel, at most for `timeout`: nothing is in it any more then
/// that was sent before, in either direction. Says whether it has.
pub fn echo(dirs: &Dirs, index: Index, timeout: Duration) -> Result<bool, TunnelError> {
    let record = Record::read(dirs, index)?.ok_or(TunnelError::NotOurs)?;
    let (local, peer) = ends(&record.view()?)?;
    echo::round_trip(local, peer, timeout).map_err(TunnelError::Echo)
}

/// The IPv4 addresses of this end and the other one, inside the tunnel.
fn ends(view: &View) -> Result<(Ipv4Addr, Ipv4Addr), TunnelError> {
    match (view.addresses.first(), view.peer_addresses.first()) {
        (Some(IpNet::V4(local)), Some(IpAddr::V4(peer))) => Ok((local.addr(), *peer)),
        _ => Err(TunnelError::NotOurs),
    }
}

/// The tunnels of this host that packets can take.
pub fn alive(dirs: &Dirs) -> Result<Vec<Index>, TunnelError> {
    let mut alive = Vec::new();
    for record in Record::read_all(dirs)? {
        if record.is_alive(dirs)? {
            alive.push(record.index);
        }
    }
    Ok(alive)
}

/// A tunnel as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What is on record.
    #[serde(flatten)]
    pub record: Record,
    /// Whether its keeper and its interface are there.
    pub alive: bool,
    /// How many tracked connections are marked for it.
    pub flows: usize,
}

/// The tunnels of this host.
pub fn list(dirs: &Dirs) -> Result<Vec<Status>, TunnelError> {
    Record::read_all(dirs)?
        .into_iter()
        .map(|record| {
            Ok(Status {
                alive: record.is_alive(dirs)?,
                flows: keeper::flows(record.index).map_err(OccupiedError::from)?,
                record,
            })
        })
        .collect()
}
