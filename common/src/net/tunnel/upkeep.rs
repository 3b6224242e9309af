//! Notices what somebody else has removed of a tunnel, and puts it back.
//!
//! Other programs remove what they do not know: `nft flush ruleset`, with which Debian's /etc/nftables.conf
//! begins, an `ip rule del`, a network manager that restarts. Moved connections need every rule and route
//! of their tunnel, so its keeper checks each second that they are there. All of them follow from the
//! tunnel's record.

use std::path::Path;

use ipnet::IpNet;

use super::TunnelError;
use super::agreement::View;
use super::wireguard::MTU;
use crate::net::flows::{guests, port_forwards};
use crate::net::kernel::nfnetlink::Nfnetlink;
use crate::net::kernel::routes::Routes;
use crate::net::kernel::sysctl;
use crate::net::mark::Index;
use crate::net::rules;
use crate::net::rules::nft;
use crate::net::state::{Dirs, Record};

/// Looks after one tunnel.
pub(crate) struct Upkeep<'a> {
    dirs: &'a Dirs,
    record: &'a Record,
    view: View,
    routes: Routes,
    netfilter: Option<Nfnetlink>,
    /// Netfilter's generation number when nothing was missing.
    generation: Option<u32>,
}

impl<'a> Upkeep<'a> {
    /// Looks after the tunnel of this record. Changes nothing yet.
    pub(crate) fn of(dirs: &'a Dirs, record: &'a Record) -> Result<Self, TunnelError> {
        Ok(Upkeep {
            dirs,
            record,
            view: record.view()?,
            routes: Routes::open()?,
            netfilter: Nfnetlink::open().ok(),
            generation: None,
        })
    }

    /// Puts back what is missing. While a tunnel is made or taken down things are missing that nobody has
    /// removed, so this checks again with the lock on all tunnels. Starts no program unless somebody has
    /// changed the ruleset.
    pub(crate) fn look(&mut self) -> Result<(), TunnelError> {
        guests::forget_removed(self.dirs, self.record.index)?;
        if self.missing()?.is_empty() {
            return Ok(());
        }
        let _lock = self.dirs.lock_all()?;
        if !Record::exists(self.dirs, self.record.index) {
            return Ok(());
        }
        self.put_back()
    }

    /// The same for a caller that has the lock on all tunnels already.
    pub(crate) fn put_back(&mut self) -> Result<(), TunnelError> {
        let missing = self.missing()?;
        if missing.is_empty() {
            return Ok(());
        }
        let (index, interface) = (self.record.index, self.record.index.interface());
        let addresses = &self.view.addresses;
        lead_in(&self.routes, index, addresses)?;
        rules::tunnel::put_back(index, &self.view)?;
        guests::put_back(self.dirs, index)?;
        port_forwards::put_back(self.dirs, index)?;
        tracing::warn!(
            interface,
            "somebody has removed {}; it is there again{}",
            missing.join(", "),
            suspect(&missing)
        );
        self.generation = None;
        Ok(())
    }

    /// What is not there, in words.
    fn missing(&mut self) -> Result<Vec<String>, TunnelError> {
        let (index, interface) = (self.record.index, self.record.index.interface());
        // Without its interface the tunnel is gone.
        if self.routes.interface(&interface)?.is_none() {
            return Ok(Vec::new());
        }
        let addresses = &self.view.addresses;
        let ipv6 = addresses.len() > 1;
        let mut missing = self.routes.missing(index, ipv6)?;
        if !self.routes.is_up(&interface, MTU)? {
            missing.push(format!("{interface} from those that are up"));
        }
        let gone = self.routes.missing_addresses(&interface, addresses)?;
        missing.extend(gone.iter().map(|net| format!("the address {net}")));
        if !sysctl::is_prepared(&interface, ipv6) {
            missing.push(format!("the settings of {interface}"));
        }
        let generation = self.netfilter.as_ref().and_then(|n| n.generation().ok());
        if generation.is_none() || generation != self.generation {
            let ways = port_forwards::ways(self.dirs, index)?;
            let guests = guests::rules(self.dirs, index)?;
            let of_firewall = rules::tunnel::missing(index, &self.view, ways, guests)?;
            // The number was read first, so a change made since is noticed next time.
            self.generation = generation.filter(|_| of_firewall.is_empty());
            missing.extend(of_firewall);
        }
        Ok(missing)
    }
}

/// Prepares the interface, brings it up with these addresses, and leads marked packets to it, as far as that
/// is not so already. The rules that mark packets come after this, when the route that those take is there.
/// Undone by [`Routes::unroute`], and with the interface.
pub(super) fn lead_in(
    routes: &Routes,
    index: Index,
    addresses: &[IpNet],
) -> Result<(), TunnelError> {
    let (interface, ipv6) = (index.interface(), addresses.len() > 1);
    sysctl::prepare_interface(&interface, ipv6)?;
    sysctl::keeping_redirects(|| routes.configure(&interface, MTU, addresses))??;
    Ok(routes.route(index, ipv6)?)
}

/// Who may have removed it.
fn suspect(missing: &[String]) -> &'static str {
    let table = format!("inet {}", nft::TABLE);
    let routing = |what: &String| what.contains("rule") || what.contains("route");
    if missing.iter().any(|what| what.contains(&table)) {
        " (`nft flush ruleset` does that, with which /etc/nftables.conf of Debian begins)"
    } else if missing.iter().any(routing) && Path::new("/run/systemd/netif/state").exists() {
        " (systemd-networkd runs here, and removes what it does not know)"
    } else {
        ""
    }
}
