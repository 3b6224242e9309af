//! Containers of the same bridge, of which one has moved.
//!
//! What containers of one bridge send each other passes no router, and so none of the rules that send
//! packets through a tunnel. So a container gets a permanent neighbour entry for each address that has moved
//! away, with a link address of the host: the host receives what it sends there, and routes it. The link
//! address is that of the host's end of the container's own interface. A bridge delivers packets for the
//! addresses of its ports to the host (`br_fdb_add_local` in the kernel's net/bridge/br_fdb.c), while its own
//! address may change with its ports.
//!
//! ```text
//! source                                        destination
//! ┌ stays ──────────────────────┐               ┌ has moved ──────────────────┐
//! │ 10.88.0.5 is at the host    │               │ 10.88.0.6 is at the host    │
//! └──────┬──────────────────────┘               └──────┬──────────────────────┘
//!     podman0 ── routing, marks ── lmwg1 ══════ lmwg1 ─┴─ routing, marks
//! ```
//!
//! The host is a neighbour too, by the address of its bridge, which goes with the bridge's last container:
//! [`keep_addresses`].
//!
//! The entries are known by their protocol ([`PROTOCOL`]). They go when both are on one bridge again
//! ([`forget_parting`]), with the tunnel of the last flow ([`tidy`]), and with the container's namespace.
//!
//! Which namespaces are on a bridge of this host is found out from kernel objects alone: Podman names the
//! namespaces of its containers in `/run/netns`, as `ip netns` does (ip-netns(8)).

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use conntrack::{Flow, Tuple};
use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::RouteProtocol;

use crate::container::sockets::connections;
use crate::net::kernel::netns::{self, EnterError};
use crate::net::kernel::routes::{RouteError, Routes};
use crate::net::kernel::sysctl;
use crate::net::mark::{Direction, Index, Mark};
use crate::net::packets::quarantine;

/// Who made an entry, as `ip neighbour` shows it: a number that no routing daemon has
/// (`/etc/iproute2/rt_protos`). Kernels before 5.0 do not store it, and there entries stay until their
/// namespace goes.
pub const PROTOCOL: RouteProtocol = RouteProtocol::Other(108);

const NAMESPACES: &str = "/run/netns";

/// A neighbour entry could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NeighbourError {
    /// A namespace could not be entered.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// The kernel refused.
    #[error(transparent)]
    Routes(#[from] RouteError),
    /// The names of the namespaces cannot be read.
    #[error("{NAMESPACES}: {0}")]
    List(#[source] io::Error),
}

type Result<T> = std::result::Result<T, NeighbourError>;

/// One end of a veth pair whose other end is a port of a bridge of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    interface: u32,
    nets: Vec<IpNet>,
    /// The link address of the bridge's end.
    host: Vec<u8>,
}

impl Port {
    fn has(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.addr() == address)
    }

    /// Whether this address is somebody else's, and reached through this port without a router.
    fn is_next_to(&self, address: IpAddr) -> bool {
        !self.has(address) && self.nets.iter().any(|net| net.contains(&address))
    }
}

/// An entry to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    netns: PathBuf,
    interface: u32,
    address: IpAddr,
    host: Vec<u8>,
}

/// Entries to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parting(Vec<Entry>);

impl Parting {
    /// The entries for containers of this host that have addresses of `peers`, when the container with the
    /// addresses `moving` leaves. Changes nothing.
    ///
    /// # Errors
    /// If the host cannot be looked at.
    pub fn find(moving: &[IpAddr], peers: &HashSet<IpAddr>) -> Result<Self> {
        if peers.is_empty() {
            return Ok(Self::default());
        }
        let mut entries = Vec::new();
        for (netns, ports) in local()? {
            if ports.iter().any(|port| peers.iter().any(|p| port.has(*p))) {
                entries.extend(entries_for(&netns, &ports, moving));
            }
        }
        Ok(Self(entries))
    }

    /// The entries for the namespace at `netns`, whose container arrives, about those of `peers` that are not
    /// on this host, or are about to leave it. Changes nothing.
    ///
    /// # Errors
    /// If the host cannot be looked at.
    pub fn of_arrival(netns: &Path, peers: &HashSet<IpAddr>) -> Result<Self> {
        if peers.is_empty() {
            return Ok(Self::default());
        }
        let host = Routes::open()?;
        let on_host = Ports::of(&host)?;
        let Some(ports) = ports(netns, &on_host)? else {
            return Ok(Self::default());
        };
        let mut away: HashSet<IpAddr> = peers.clone();
        away.retain(|peer| ports.iter().any(|port| port.is_next_to(*peer)));
        if away.is_empty() {
            return Ok(Self::default());
        }
        for address in host.own_addresses()? {
            away.remove(&address);
        }
        for (there, others) in local()? {
            let near = |peer: &IpAddr| others.iter().any(|port| port.has(*peer));
            let stays = || matches!(netns::in_netns(&there, quarantine::is_here), Ok(Ok(false)));
            if away.iter().any(near) && stays() {
                away.retain(|peer| !near(peer));
            }
        }
        let away: Vec<_> = away.into_iter().collect();
        Ok(Self(entries_for(netns, &ports, &away)))
    }

    /// Makes the entries. Call when packets of the flows take the tunnel: from now on they pass this
    /// host's routing. Undone by [`forget_parting`] and [`tidy`], and by the namespace's end.
    ///
    /// # Errors
    /// If the kernel refuses. A namespace that has gone is no error.
    pub fn make(&self) -> Result<()> {
        for entry in &self.0 {
            let made = netns::in_netns(&entry.netns, || Routes::open()?.add_neighbour(entry));
            match made {
                Err(error) if !entry.netns.exists() => tracing::debug!("{error}"),
                made => made??,
            }
        }
        Ok(())
    }
}

/// The connections within `networks` of the container with these addresses and the process `pid`, if the
/// tracker does not see them: as the tuples of the container's packets, found by the sockets at either end. A
/// socket that is not connected tells of none.
///
/// # Errors
/// If the host cannot be looked at.
pub fn untracked(pid: i32, addresses: &[IpAddr], networks: &[IpNet]) -> Result<HashSet<Tuple>> {
    if sysctl::bridges_are_tracked() {
        return Ok(HashSet::new());
    }
    let mut found: HashSet<_> = connections::of(Path::new(&format!("/proc/{pid}/net")))
        .into_iter()
        .filter(|own| {
            networks
                .iter()
                .any(|net| net.contains(&own.destination.ip()))
        })
        .collect();
    for (netns, _) in local()? {
        // The files follow the thread's namespace.
        let look = || connections::of(Path::new("/proc/thread-self/net"));
        let theirs = netns::in_netns(&netns, look).unwrap_or_default();
        let with = |own: &&Tuple| addresses.contains(&own.destination.ip());
        found.extend(theirs.iter().filter(with).map(Tuple::inverse));
    }
    Ok(found)
}

/// Gives those of this host's addresses that are among `peers` to the tunnel's interface as well, so that
/// the host keeps them when it loses the interface they are on. They go with the last tunnel that their flows
/// use ([`hand_on_addresses`]).
///
/// # Errors
/// If the kernel refuses.
pub fn keep_addresses(peers: &HashSet<IpAddr>, tunnel: Index) -> Result<()> {
    if peers.is_empty() {
        return Ok(());
    }
    let host = Routes::open()?;
    for address in host.own_addresses()?.intersection(peers) {
        host.add_address(&tunnel.interface(), *address)?;
    }
    Ok(())
}

/// Gives the addresses of a tunnel that goes, except its `own`, to other tunnels whose `flows` need them.
///
/// # Errors
/// If the kernel refuses.
pub fn hand_on_addresses(from: Index, own: &[IpNet], flows: &[Flow]) -> Result<()> {
    let host = Routes::open()?;
    let Some(interface) = host.interface(&from.interface())? else {
        return Ok(());
    };
    for (_, net) in host
        .addresses()?
        .into_iter()
        .filter(|(i, _)| *i == interface)
    {
        if own.contains(&net) {
            continue;
        }
        let needing = flows.iter().filter(|flow| ends(flow).contains(&net.addr()));
        let tunnels: HashSet<_> = needing
            .flat_map(|flow| Direction::BOTH.map(|direction| Mark(flow.mark).get(direction)))
            .flatten()
            .collect();
        for tunnel in tunnels.into_iter().filter(|tunnel| *tunnel != from) {
            host.add_address(&tunnel.interface(), net.addr())?;
        }
    }
    Ok(())
}

/// All addresses that packets of a flow have on this host.
fn ends(flow: &Flow) -> [IpAddr; 4] {
    let Flow {
        original, reply, ..
    } = flow;
    [
        original.source.ip(),
        original.destination.ip(),
        reply.source.ip(),
        reply.destination.ip(),
    ]
}

/// Removes the entries for these addresses: this host's containers then find them by ARP or neighbour
/// discovery again.
///
/// # Errors
/// If the kernel refuses.
pub fn forget_parting(addresses: &[IpAddr]) -> Result<()> {
    forget(|address| addresses.contains(&address))
}

/// Removes the entries for all addresses that appear in none of `flows`.
///
/// # Errors
/// If the kernel refuses.
pub fn tidy(flows: &[Flow]) -> Result<()> {
    let live: HashSet<IpAddr> = flows.iter().flat_map(ends).collect();
    forget(|address| !live.contains(&address))
}

fn forget(which: impl Fn(IpAddr) -> bool + Sync) -> Result<()> {
    for netns in namespaces()? {
        let forgotten = netns::in_netns(&netns, || {
            let routes = Routes::open()?;
            for (address, entry) in routes.our_neighbours()? {
                if which(address) {
                    routes.delete_neighbour(address, entry)?;
                }
            }
            Ok::<_, RouteError>(())
        });
        match forgotten {
            // The name may be left over from a namespace that is gone.
            Err(error) => tracing::debug!("{error}"),
            Ok(forgotten) => forgotten?,
        }
    }
    Ok(())
}

fn entries_for(netns: &Path, ports: &[Port], away: &[IpAddr]) -> Vec<Entry> {
    let near = |port: &Port| {
        let near: Vec<_> = away
            .iter()
            .copied()
            .filter(|a| port.is_next_to(*a))
            .collect();
        let port = port.clone();
        near.into_iter().map(move |address| Entry {
            netns: netns.to_owned(),
            interface: port.interface,
            address,
            host: port.host.clone(),
        })
    };
    ports.iter().flat_map(near).collect()
}

/// The namespaces of this host with ports of its bridges.
fn local() -> Result<Vec<(PathBuf, Vec<Port>)>> {
    let on_host = Ports::of(&Routes::open()?)?;
    let mut found = Vec::new();
    for netns in namespaces()? {
        if let Some(ports) = ports(&netns, &on_host)? {
            found.push((netns, ports));
        }
    }
    Ok(found)
}

fn namespaces() -> Result<Vec<PathBuf>> {
    let names = match fs::read_dir(NAMESPACES) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        names => names.map_err(NeighbourError::List)?,
    };
    names
        .map(|name| Ok(name.map_err(NeighbourError::List)?.path()))
        .collect()
}

/// The ports that a namespace has; `None` if it cannot be entered, or not any more.
fn ports(netns: &Path, host: &Ports) -> Result<Option<Vec<Port>>> {
    let looked = netns::in_netns(netns, || {
        let routes = Routes::open()?;
        Ok::<_, RouteError>((routes.links()?, routes.addresses()?))
    });
    let (links, addresses) = match looked {
        Err(error) => {
            tracing::debug!("{error}");
            return Ok(None);
        }
        Ok(looked) => looked?,
    };
    let port = |link: &Link| {
        let nets = addresses
            .iter()
            .filter(|(number, _)| *number == link.number);
        Some(Port {
            interface: link.number,
            nets: nets.map(|(_, net)| *net).collect(),
            host: host.port(link.other_end?)?,
        })
    };
    Ok(Some(links.iter().filter_map(port).collect()))
}

/// The ports of the host's bridges.
struct Ports(Vec<Link>);

impl Ports {
    fn of(host: &Routes) -> Result<Self> {
        let mut links = host.links()?;
        links.retain(|link| link.is_port);
        Ok(Self(links))
    }

    /// The link address of the port with this number.
    fn port(&self, number: u32) -> Option<Vec<u8>> {
        let port = self.0.iter().find(|link| link.number == number);
        Some(port?.address.clone())
    }
}

/// What matters here about an interface.
#[derive(Debug, Clone, Default)]
struct Link {
    number: u32,
    address: Vec<u8>,
    /// The number of the other end, for one of a pair.
    other_end: Option<u32>,
    /// Whether it belongs to a bridge or the like.
    is_port: bool,
}

impl Routes {
    fn links(&self) -> std::result::Result<Vec<Link>, RouteError> {
        let links = self.handle().link().get().execute();
        let links = self.request("list interfaces", links.try_collect::<Vec<_>>())?;
        let parse = |message: rtnetlink::packet_route::link::LinkMessage| {
            let mut link = Link {
                number: message.header.index,
                ..Link::default()
            };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::Address(address) => link.address = address,
                    LinkAttribute::Link(number) => link.other_end = Some(number),
                    LinkAttribute::Controller(_) => link.is_port = true,
                    _ => {}
                }
            }
            link
        };
        Ok(links.into_iter().map(parse).collect())
    }

    fn add_neighbour(&self, entry: &Entry) -> std::result::Result<(), RouteError> {
        let mut request = self
            .handle()
            .neighbours()
            .add(entry.interface, entry.address)
            .link_layer_address(&entry.host)
            .replace();
        let attributes = &mut request.message_mut().attributes;
        attributes.push(NeighbourAttribute::Protocol(PROTOCOL));
        self.request(
            format!("have packets for {} routed", entry.address),
            request.execute(),
        )
    }

    fn our_neighbours(&self) -> std::result::Result<Vec<(IpAddr, NeighbourMessage)>, RouteError> {
        let entries = self.handle().neighbours().get().execute();
        let entries = self.request("list neighbours", entries.try_collect::<Vec<_>>())?;
        let ours = |entry: NeighbourMessage| {
            let protocol = NeighbourAttribute::Protocol(PROTOCOL);
            let address = entry.attributes.iter().find_map(|a| match a {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((*ip).into()),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((*ip).into()),
                _ => None,
            })?;
            entry
                .attributes
                .contains(&protocol)
                .then_some((address, entry))
        };
        Ok(entries.into_iter().filter_map(ours).collect())
    }

    fn delete_neighbour(
        &self,
        address: IpAddr,
        entry: NeighbourMessage,
    ) -> std::result::Result<(), RouteError> {
        self.request(
            format!("let {address} be found again"),
            self.handle().neighbours().del(entry).execute(),
        )
    }
}
