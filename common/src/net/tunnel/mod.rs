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
//! its [`crate::net::tunnel::keeper`], which takes it down when it has been idle for a while.

pub mod agreement;
pub mod bypass;
pub(crate) mod echo;
pub mod error;
pub mod expect;
pub mod features;
pub mod in_use;
pub mod keeper;
pub mod lifecycle;
pub mod overflow;
pub mod spawn;
pub mod status;
pub mod subnet;
mod upkeep;
pub mod userspace;
pub mod wireguard;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;

use agreement::{Offer, Terms, View};
pub use error::TunnelError;
use lifecycle::{is_alive, is_recent, make, reuse, sweep, take_down_if_idle};
use spawn::KeeperCommand;
use wireguard::{Backend, PrivateKey};

use crate::lock::Lock;
use crate::net::mark::Index;
use crate::net::state::{Claim, Dirs, Record, ticket};
use crate::ticket::Ticket;

/// Pause before retrying while a tunnel is being taken down.
const RETRY: Duration = Duration::from_millis(50);
/// How often hosts negotiate again because another tunnel has taken the number or network they agreed on.
pub const MOST_TRIES: u32 = 8;
/// How long [`Tunnel::prove`] may take in a migration.
pub const PROOF_LIMIT: Duration = Duration::from_secs(10);

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
        let in_use = in_use::gather(&indexes(&records))?;
        Ok(Offer {
            public_key: key.public(),
            port: in_use.allot()?.port(),
            prefixes: in_use.prefixes,
            ipv6: in_use.ipv6,
            tunnels: records
                .into_iter()
                .filter(|record| record.public_key == key.public())
                .map(|record| record.agreement)
                .collect(),
        })
    }

    /// Destination, first step: the tunnel to use, an existing one if possible.
    ///
    /// # Errors
    /// [`TunnelError::KeyOfAnother`] if a tunnel with the offer's key belongs to another peer.
    pub fn answer(
        dirs: &Dirs,
        offer: &Offer,
        claim: &Claim,
        keeper: KeeperCommand,
    ) -> Result<Terms, TunnelError> {
        sweep(dirs, keeper)?;
        let key = PrivateKey::load_or_create(&dirs.state)?;
        let records = Record::read_all(dirs)?;
        let in_use = in_use::gather(&indexes(&records))?;
        for record in &records {
            let has_its_key = |view: View| view.peer.public_key == offer.public_key;
            let known = offer.tunnels.contains(&record.agreement);
            if record.view().is_ok_and(has_its_key) && !record.admits(claim, known) {
                return Err(TunnelError::KeyOfAnother(record.index));
            }
        }
        let tunnels: Vec<_> = records.into_iter().map(|record| record.agreement).collect();
        let agreement = agreement::answer(offer, &key.public(), &tunnels, &in_use)?;
        let index = agreement
            .view(&key.public())
            .and_then(|view| Index::from_port(view.local.port));
        let known = match index {
            // Whoever has the other half knows the ticket, and nobody else is told.
            Some(index) if tunnels.contains(&agreement) && !has_both_halves(dirs, index)? => {
                ticket(dirs, index)?
            }
            _ => None,
        };
        Ok(Terms {
            ticket: known.unwrap_or_else(Ticket::random),
            agreement,
        })
    }

    /// Destination: answers, and makes this host's half at once. Another tunnel made in between
    /// may take what was agreed on: then it answers again.
    ///
    /// # Errors
    /// As [`Tunnel::answer`] and [`Tunnel::establish`].
    pub fn accept(
        dirs: &Dirs,
        offer: &Offer,
        peer: IpAddr,
        claim: &Claim,
        keeper: KeeperCommand,
    ) -> Result<(Self, Terms), TunnelError> {
        let mut tries = 1..=MOST_TRIES;
        loop {
            let terms = Tunnel::answer(dirs, offer, claim, keeper)?;
            match Tunnel::establish(dirs, &terms, peer, claim, keeper) {
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
        claim: &Claim,
        keeper: KeeperCommand,
    ) -> Result<Self, TunnelError> {
        let agreement = &terms.agreement;
        let key = PrivateKey::load_or_create(&dirs.state)?;
        let view = agreement.view(&key.public()).ok_or(TunnelError::NotOurs)?;
        let index = Index::from_port(view.local.port).ok_or(TunnelError::NotOurs)?;
        // Handshakes go to ports of tunnels only, whatever an introduction names.
        Index::from_port(view.peer.port).ok_or(TunnelError::NotOurs)?;
        let endpoint = SocketAddr::new(peer, view.peer.port);
        loop {
            let all = dirs.lock_all()?;
            // Fails while the keeper is checking for leases or taking the tunnel down. It may need the
            // lock on all tunnels for that, so release ours and retry.
            let Some(lease) = Lock::try_shared(&dirs.lease(index))? else {
                drop(all);
                thread::sleep(RETRY);
                continue;
            };
            let found = Record::read(dirs, index)?;
            let reused = found.is_some();
            let record = match found {
                None => make(dirs, index, terms, &key, &view, endpoint, claim, keeper)?,
                Some(record) if record.agreement == *agreement && is_alive(dirs, &record)? => {
                    // Both ends have it on record: the other one has just named it.
                    if !record.admits(claim, true) {
                        return Err(TunnelError::KeyOfAnother(index));
                    }
                    reuse(dirs, record, &key, &view, endpoint, claim)?
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
        // The other end sends requests as well.
        if let Err(error) = expect::echo(peer.into(), local.into(), echo::IDENTIFIER) {
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

    /// Which WireGuard moves the packets.
    pub fn backend(&self) -> Backend {
        self.record.backend
    }

    /// Whether the tunnel existed already.
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

    /// Gives up the lease and takes the tunnel down at once. If somebody else has a lease or flows
    /// use the tunnel, it is left to its keeper. Returns whether it was taken down.
    pub fn teardown(self) -> Result<bool, TunnelError> {
        drop(self.lease);
        take_down_if_idle(&self.dirs, self.record.index)
    }
}

/// Whether the tunnel's other end has been heard of lately.
fn has_both_halves(dirs: &Dirs, index: Index) -> Result<bool, TunnelError> {
    let Some(record) = Record::read(dirs, index)? else {
        return Ok(false);
    };
    let heard = wireguard::last_handshake(&record.index.interface(), record.backend)?;
    Ok(heard.is_some_and(is_recent))
}

fn indexes(records: &[Record]) -> Vec<Index> {
    records.iter().map(|record| record.index).collect()
}

/// Waits until an echo has come back through a tunnel, for at most `timeout`. By then everything sent
/// earlier, in either direction, has left the tunnel. Returns whether the echo came back.
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
