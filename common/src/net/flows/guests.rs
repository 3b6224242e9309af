//! Containers that came to this host through a tunnel.
//!
//! A tunnel carries packets of flows that name it, and nothing else ([`crate::net::rules`]). Two kinds of
//! packets belong to a container that came through it and name no tunnel: those that begin a new connection,
//! which the other end sends after the container ([`super::port_forwards`]); and when the container comes back
//! to the host where its flows enter, those that it sent before it was frozen. So its addresses are on record
//! with the tunnel, in `tunnels/lmwgN.guests`, until it leaves again or is removed, or the tunnel goes.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::port_forwards::ForwardError;
use crate::net::mark::Index;
use crate::net::rules::filter;
use crate::net::state::{self, Dirs, StateError};

/// A container that came through a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Guest {
    /// Its id.
    container: String,
    addresses: Vec<IpAddr>,
    /// Podman's for its configuration: gone when the container is removed. None on records of agents that did
    /// not look.
    bundle: Option<PathBuf>,
}

/// Lets the other end of a tunnel reach a container, by id, that comes through it with these addresses. Undone
/// by [`leave`], and by `forget_removed` once its `bundle` is gone, the directory of its configuration.
///
/// # Errors
/// Those of the tunnel's files and of the firewall.
pub fn arrive(
    dirs: &Dirs,
    tunnel: Index,
    container: &str,
    addresses: &[IpAddr],
    bundle: &Path,
) -> Result<(), ForwardError> {
    let _lock = dirs.lock_all()?;
    let mut guests = of_tunnel(dirs, tunnel)?;
    add(
        &mut guests,
        Guest {
            container: container.to_owned(),
            addresses: addresses.to_owned(),
            bundle: Some(bundle.to_owned()),
        },
    );
    apply(dirs, tunnel, &guests)
}

/// Lets the other end of `tunnel` reach the containers that came through another one as well: connections
/// that enter there are about to take this tunnel.
///
/// # Errors
/// Those of the tunnels' files and of the firewall.
pub fn share(dirs: &Dirs, from: Index, tunnel: Index) -> Result<(), ForwardError> {
    let _lock = dirs.lock_all()?;
    let mut guests = of_tunnel(dirs, tunnel)?;
    for guest in of_tunnel(dirs, from)? {
        add(&mut guests, guest);
    }
    apply(dirs, tunnel, &guests)
}

/// The addresses with which a container came through tunnels, if it did.
///
/// # Errors
/// Those of the tunnels' files.
pub fn addresses_of(dirs: &Dirs, container: &str) -> Result<HashSet<IpAddr>, ForwardError> {
    let mut all = HashSet::new();
    for tunnel in Index::all() {
        let mut guests = of_tunnel(dirs, tunnel)?;
        guests.retain(|guest| guest.container == container);
        all.extend(addresses(&guests));
    }
    Ok(all)
}

/// Forgets a container that is not on this host any more, whether or not it came through a tunnel.
///
/// # Errors
/// Those of the tunnels' files and of the firewall.
pub fn leave(dirs: &Dirs, container: &str) -> Result<(), ForwardError> {
    let _lock = dirs.lock_all()?;
    for tunnel in Index::all() {
        let mut guests = of_tunnel(dirs, tunnel)?;
        let before = guests.len();
        guests.retain(|guest| guest.container != container);
        if guests.len() < before {
            apply(dirs, tunnel, &guests)?;
        }
    }
    Ok(())
}

/// Forgets containers that somebody has removed: others may get their addresses. The tunnel's keeper does this.
///
/// # Errors
/// Those of the tunnel's files and of the firewall.
pub(crate) fn forget_removed(dirs: &Dirs, tunnel: Index) -> Result<(), ForwardError> {
    let removed = |guest: &Guest| guest.bundle.as_ref().is_some_and(|bundle| !bundle.exists());
    if !of_tunnel(dirs, tunnel)?.iter().any(removed) {
        return Ok(());
    }
    let _lock = dirs.lock_all()?;
    // The tunnel may have been taken down in the meantime, and its files with it.
    let mut guests = of_tunnel(dirs, tunnel)?;
    let before = guests.len();
    guests.retain(|guest| !removed(guest));
    match guests.len() < before {
        true => apply(dirs, tunnel, &guests),
        false => Ok(()),
    }
}

/// How many rules the guests of a tunnel have.
pub(crate) fn rules(dirs: &Dirs, tunnel: Index) -> Result<usize, ForwardError> {
    let addresses = addresses(&of_tunnel(dirs, tunnel)?).len();
    Ok(addresses * filter::RULES_PER_GUEST)
}

/// Recreates the rules of a tunnel's guests. The caller has the lock on all tunnels.
pub(crate) fn put_back(dirs: &Dirs, tunnel: Index) -> Result<(), ForwardError> {
    apply(dirs, tunnel, &of_tunnel(dirs, tunnel)?)
}

fn of_tunnel(dirs: &Dirs, tunnel: Index) -> Result<Vec<Guest>, StateError> {
    Ok(state::read(&dirs.guests(tunnel))?.unwrap_or_default())
}

fn add(guests: &mut Vec<Guest>, guest: Guest) {
    guests.retain(|other| other.container != guest.container);
    guests.push(guest);
}

/// Makes these the guests of a tunnel. They are recorded first: whatever is on record can be removed.
fn apply(dirs: &Dirs, tunnel: Index, guests: &[Guest]) -> Result<(), ForwardError> {
    state::write(&dirs.guests(tunnel), &guests)?;
    Ok(filter::guests(tunnel, &addresses(guests))?)
}

fn addresses(guests: &[Guest]) -> Vec<IpAddr> {
    let all = guests.iter().flat_map(|guest| &guest.addresses);
    all.copied().collect()
}
