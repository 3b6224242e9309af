//! Links, addresses, routes and policy rules, over rtnetlink.
//!
//! Blocking, like the rest of `net`: call from a thread that may block
//! (`tokio::task::spawn_blocking`), never from within an asynchronous task.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_core::ErrorMessage;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkUnspec, LinkWireguard, RouteMessageBuilder};
use tokio::runtime::Runtime;

use crate::net::mark::{FWMARK_MASK, Index};

/// The kernel refused a change of links, addresses, routes or rules.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// No socket, or it broke.
    #[error("no rtnetlink socket: {0}")]
    Socket(#[from] io::Error),
    /// A request was refused.
    #[error("cannot {what}: {source}")]
    Request {
        /// The request in words.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// The interface is not there.
    #[error("there is no interface {0}")]
    NoInterface(String),
}

impl RouteError {
    fn errno(&self) -> i32 {
        match self {
            RouteError::Request {
                source: rtnetlink::Error::NetlinkError(ErrorMessage { code, .. }),
                ..
            } => code.map_or(0, |code| -code.get()),
            _ => 0,
        }
    }
}

type Result<T> = std::result::Result<T, RouteError>;

/// What matters about a policy rule that may collide with ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Its place among the rules.
    pub priority: u32,
    /// The table it leads to.
    pub table: u32,
    /// The fwmark it matches.
    pub fwmark: u32,
    /// The bits of the fwmark that it compares; 0 if none.
    pub fwmask: u32,
}

/// Everything about routing that a tunnel can collide with.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Interface names.
    pub interfaces: Vec<String>,
    /// Prefixes of addresses and of routes, without default routes.
    pub prefixes: Vec<IpNet>,
    /// Routing tables that have routes, each with one of them.
    pub tables: BTreeMap<u32, String>,
    /// Policy rules of both families.
    pub rules: Vec<PolicyRule>,
}

/// A connection to the rtnetlink of the network namespace of the thread that opened it.
pub struct Routes {
    runtime: Runtime,
    handle: Handle,
}

impl Routes {
    /// Opens the connection.
    pub fn open() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let _context = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection()?;
        runtime.spawn(connection);
        drop(_context);
        Ok(Self { runtime, handle })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn request<T>(
        &self,
        what: impl Into<String>,
        request: impl Future<Output = std::result::Result<T, rtnetlink::Error>>,
    ) -> Result<T> {
        self.runtime
            .block_on(request)
            .map_err(|source| RouteError::Request {
                what: what.into(),
                source,
            })
    }

    /// Creates a WireGuard interface; `false` if this kernel has no WireGuard (and no module to
    /// load). Undone by [`delete_interface`](Self::delete_interface).
    pub fn add_wireguard(&self, interface: &str) -> Result<bool> {
        let link = LinkWireguard::new(interface).build();
        let added = self.request(
            format!("create the WireGuard interface {interface}"),
            self.handle.link().add(link).execute(),
        );
        match added {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == libc::EOPNOTSUPP => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The interface's number, if it exists.
    pub fn interface(&self, name: &str) -> Result<Option<u32>> {
        let links = self.handle.link().get().match_name(name).execute();
        let found = self.request(format!("look for {name}"), links.try_collect::<Vec<_>>());
        match found {
            Ok(links) => Ok(links.first().map(|link| link.header.index)),
            Err(error) if error.errno() == libc::ENODEV => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn existing(&self, name: &str) -> Result<u32> {
        self.interface(name)?
            .ok_or_else(|| RouteError::NoInterface(name.into()))
    }

    /// Gives the interface those addresses that it lacks and its MTU, and brings it up. Goes with the
    /// interface.
    pub fn configure(&self, interface: &str, mtu: u32, addresses: &[IpNet]) -> Result<()> {
        let number = self.existing(interface)?;
        for net in addresses {
            there_already(
                self.request(
                    format!("give {interface} the address {net}"),
                    self.handle
                        .address()
                        .add(number, net.addr(), net.prefix_len())
                        .execute(),
                ),
            )?;
        }
        let up = LinkUnspec::new_with_index(number).mtu(mtu).up().build();
        self.request(
            format!("bring {interface} up"),
            self.handle.link().set(up).execute(),
        )
    }

    /// Gives the interface another address, as a /32 or /128. Goes with the interface.
    pub fn add_address(&self, interface: &str, address: IpAddr) -> Result<()> {
        let number = self.existing(interface)?;
        let net = IpNet::from(address);
        let add = self
            .handle
            .address()
            .add(number, net.addr(), net.prefix_len());
        there_already(self.request(
            format!("give {interface} the address {address}"),
            add.execute(),
        ))
    }

    /// Each interface's number and MTU.
    pub fn mtus(&self) -> Result<Vec<(u32, u32)>> {
        let links = self.handle.link().get().execute();
        let links = self.request("list interfaces", links.try_collect::<Vec<_>>())?;
        let mtu = |attribute: &LinkAttribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        };
        Ok(links
            .iter()
            .filter_map(|link| Some((link.header.index, link.attributes.iter().find_map(mtu)?)))
            .collect())
    }

    /// Changes the MTU of the interface with this number.
    pub fn set_mtu(&self, interface: u32, mtu: u32) -> Result<()> {
        let link = LinkUnspec::new_with_index(interface).mtu(mtu).build();
        self.request(
            format!("set the MTU of interface {interface} to {mtu}"),
            self.handle.link().set(link).execute(),
        )
    }

    /// Leads packets marked for the tunnel through its interface: a rule per family, and a table
    /// with a default route through the interface.
    ///
    /// A second route, of lower preference, drops the packets when the interface has vanished because its
    /// process was killed: a packet of a moved flow must never go by ordinary routing. Rules come last,
    /// when the table is ready. What exists already stays. Undone by [`unroute`](Self::unroute).
    ///
    /// All of them claim that the kernel made them. When systemd-networkd starts or configures a link it
    /// removes rules and routes of both families that it does not know, except the kernel's
    /// (`ManageForeignRoutingPolicyRules` and `ManageForeignRoutes` in networkd.conf(5)).
    pub fn route(&self, index: Index, ipv6: bool) -> Result<()> {
        let interface = index.interface();
        let number = self.existing(&interface)?;
        for family in families(ipv6) {
            let mut drop = default_route(family, index.table());
            drop.header.kind = RouteType::BlackHole;
            drop.attributes.push(RouteAttribute::Priority(u32::MAX));
            let mut through = default_route(family, index.table());
            through.attributes.push(RouteAttribute::Oif(number));
            for route in [through, drop] {
                there_already(self.request(
                    format!("add a route through {interface} to table {}", index.table()),
                    self.handle.route().add(route).execute(),
                ))?;
            }
            let mut add = self.handle.rule().add();
            *add.message_mut() = rule(family, index);
            let protocol = RuleAttribute::Protocol(RouteProtocol::Kernel);
            add.message_mut().attributes.push(protocol);
            there_already(self.request(format!("add the rule for {interface}"), add.execute()))?;
        }
        Ok(())
    }

    /// Which of a tunnel's rules and routes are missing, in words.
    pub fn missing(&self, index: Index, ipv6: bool) -> Result<Vec<String>> {
        let number = self.existing(&index.interface())?;
        let mut missing = Vec::new();
        for family in families(ipv6) {
            let name = match family {
                AddressFamily::Inet => "IPv4",
                _ => "IPv6",
            };
            let routes = self.routes(family)?;
            let own = || routes.iter().filter(|route| table(route) == index.table());
            if !own().any(|route| route.attributes.contains(&RouteAttribute::Oif(number))) {
                missing.push(format!("the {name} route of table {}", index.table()));
            }
            if !own().any(|route| route.header.kind == RouteType::BlackHole) {
                missing.push(format!("the {name} blackhole of table {}", index.table()));
            }
            let expected = parse_rule(&rule(family, index));
            if !self
                .rules(family)?
                .iter()
                .any(|rule| parse_rule(rule) == expected)
            {
                missing.push(format!("the {name} rule {}", index.priority()));
            }
        }
        Ok(missing)
    }

    /// Whether the interface is up, with this MTU.
    pub fn is_up(&self, interface: &str, mtu: u32) -> Result<bool> {
        let links = self.handle.link().get().match_name(interface).execute();
        let links = self.request(
            format!("look for {interface}"),
            links.try_collect::<Vec<_>>(),
        )?;
        Ok(links.first().is_some_and(|link| {
            link.header.flags.contains(LinkFlags::Up)
                && link.attributes.contains(&LinkAttribute::Mtu(mtu))
        }))
    }

    /// Which of these addresses the interface lacks.
    pub fn missing_addresses(&self, interface: &str, addresses: &[IpNet]) -> Result<Vec<IpNet>> {
        let number = self.existing(interface)?;
        let there = self.addresses()?;
        let is_there = |net: &&IpNet| there.contains(&(number, **net));
        Ok(addresses
            .iter()
            .filter(|net| !is_there(net))
            .copied()
            .collect())
    }

    /// Removes those rules and routes of a tunnel that exist, whoever they claim to be made by: a request
    /// to remove a rule need not say that (`rule_find` in the kernel's net/core/fib_rules.c), and routes
    /// are removed as they were found.
    pub fn unroute(&self, index: Index) -> Result<()> {
        for family in families(true) {
            let delete = self.handle.rule().del(rule(family, index)).execute();
            gone(self.request(format!("remove the rule of {}", index.interface()), delete))?;
            for route in self.routes(family)? {
                if table(&route) == index.table() {
                    let delete = self.handle.route().del(route).execute();
                    gone(self.request(format!("empty table {}", index.table()), delete))?;
                }
            }
        }
        Ok(())
    }

    /// Deletes an interface with its addresses and routes, if it exists.
    pub fn delete_interface(&self, interface: &str) -> Result<()> {
        let Some(number) = self.interface(interface)? else {
            return Ok(());
        };
        let delete = self.handle.link().del(number).execute();
        gone(self.request(format!("delete {interface}"), delete))
    }

    /// The names of the interfaces that default routes of one family lead to.
    pub fn uplinks(&self, ipv6: bool) -> Result<Vec<String>> {
        let links = self.handle.link().get().execute();
        let links = self.request("list interfaces", links.try_collect::<Vec<_>>())?;
        let family = match ipv6 {
            true => AddressFamily::Inet6,
            false => AddressFamily::Inet,
        };
        let mut names = Vec::new();
        for route in self.routes(family)? {
            let is_default = route.header.destination_prefix_length == 0
                && route.header.kind == RouteType::Unicast
                && table(&route) == u32::from(RouteHeader::RT_TABLE_MAIN);
            let number = route
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Oif(number) if is_default => Some(*number),
                    _ => None,
                });
            let link = links.iter().find(|link| Some(link.header.index) == number);
            let attributes = link.into_iter().flat_map(|link| &link.attributes);
            names.extend(attributes.filter_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            }));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The addresses of all interfaces, each with its prefix's length and the interface's number.
    pub(crate) fn addresses(&self) -> Result<Vec<(u32, IpNet)>> {
        let addresses = self.handle.address().get().execute();
        let addresses = self.request("list addresses", addresses.try_collect::<Vec<_>>())?;
        let mut found = Vec::new();
        for address in addresses {
            let (number, length) = (address.header.index, address.header.prefix_len);
            for attribute in address.attributes {
                if let AddressAttribute::Address(ip) | AddressAttribute::Local(ip) = attribute {
                    found.extend(IpNet::new(ip, length).map(|net| (number, net)));
                }
            }
        }
        Ok(found)
    }

    /// The addresses of all interfaces.
    pub fn own_addresses(&self) -> Result<HashSet<IpAddr>> {
        let nets = self.addresses()?;
        Ok(nets.into_iter().map(|(_, net)| net.addr()).collect())
    }

    /// What is in use.
    pub fn facts(&self) -> Result<Facts> {
        let mut facts = Facts::default();
        let links = self.handle.link().get().execute();
        for link in self.request("list interfaces", links.try_collect::<Vec<_>>())? {
            facts
                .interfaces
                .extend(
                    link.attributes
                        .into_iter()
                        .filter_map(|attribute| match attribute {
                            LinkAttribute::IfName(name) => Some(name),
                            _ => None,
                        }),
                );
        }
        let addresses = self.addresses()?;
        facts
            .prefixes
            .extend(addresses.into_iter().map(|(_, net)| net));
        for family in families(true) {
            for route in self.routes(family)? {
                let destination = destination(&route);
                let text = destination.map_or("default".into(), |net| net.to_string());
                facts.tables.entry(table(&route)).or_insert(text);
                facts.prefixes.extend(destination);
            }
            facts
                .rules
                .extend(self.rules(family)?.iter().map(parse_rule));
        }
        // Some VPN software writes a default route as two halves of the address space.
        facts.prefixes.retain(|net| net.prefix_len() > 1);
        facts.prefixes.sort();
        facts.prefixes.dedup();
        Ok(facts)
    }

    fn rules(&self, family: AddressFamily) -> Result<Vec<RuleMessage>> {
        let version = match family {
            AddressFamily::Inet => IpVersion::V4,
            _ => IpVersion::V6,
        };
        let rules = self.handle.rule().get(version).execute();
        unsupported(self.request("list rules", rules.try_collect::<Vec<_>>()))
    }

    fn routes(&self, family: AddressFamily) -> Result<Vec<RouteMessage>> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        let routes = self.handle.route().get(filter).execute();
        unsupported(self.request("list routes", routes.try_collect::<Vec<_>>()))
    }
}

fn families(ipv6: bool) -> impl Iterator<Item = AddressFamily> {
    [AddressFamily::Inet]
        .into_iter()
        .chain(ipv6.then_some(AddressFamily::Inet6))
}

/// What exists already need not be made.
fn there_already(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.errno() == libc::EEXIST => Ok(()),
        other => other,
    }
}

/// What does not exist need not be removed. The kernel's error number for that depends on the kind of
/// object, and the kernel may lack a family.
fn gone(result: Result<()>) -> Result<()> {
    match result {
        Err(error)
            if matches!(
                error.errno(),
                libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EAFNOSUPPORT | libc::EOPNOTSUPP
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// A kernel without IPv6 has no IPv6 routes.
fn unsupported<T>(result: Result<Vec<T>>) -> Result<Vec<T>> {
    match result {
        Err(error) if matches!(error.errno(), libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => {
            Ok(Vec::new())
        }
        other => other,
    }
}

fn default_route(family: AddressFamily, table: u32) -> RouteMessage {
    match family {
        AddressFamily::Inet => RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(table)
            .protocol(RouteProtocol::Kernel)
            .build(),
        _ => RouteMessageBuilder::<Ipv6Addr>::new()
            .table_id(table)
            .protocol(RouteProtocol::Kernel)
            .build(),
    }
}

/// Without its protocol: a rule to be found or removed is ours whatever that is.
fn rule(family: AddressFamily, index: Index) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(index.priority()),
        RuleAttribute::FwMark(index.fwmark()),
        RuleAttribute::FwMask(FWMARK_MASK),
        RuleAttribute::Table(index.table()),
    ];
    message
}

fn parse_rule(message: &RuleMessage) -> PolicyRule {
    let mut rule = PolicyRule {
        priority: 0,
        table: message.header.table.into(),
        fwmark: 0,
        fwmask: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::FwMark(mark) => rule.fwmark = *mark,
            RuleAttribute::FwMask(mask) => rule.fwmask = *mask,
            _ => {}
        }
    }
    rule
}

fn table(route: &RouteMessage) -> u32 {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(route.header.table.into())
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    route.attributes.iter().find_map(|attribute| {
        let address = match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => IpAddr::V4(*ip),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => IpAddr::V6(*ip),
            _ => return None,
        };
        IpNet::new(address, route.header.destination_prefix_length).ok()
    })
}
