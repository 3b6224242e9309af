//! All that rtnetlink knows of a network namespace, as plain data.

use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType,
};

use super::connection::{Result, Routes, families};
use super::facts::{destination, parse_rule, table};

/// Everything in a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Interfaces.
    pub links: Vec<Link>,
    /// Addresses of interfaces.
    pub addresses: Vec<Address>,
    /// Routes of both families, of all tables, without those that the kernel itself has made.
    pub routes: Vec<Route>,
    /// Policy rules, without those that each namespace begins with.
    pub rules: Vec<Rule>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Its kind as ip-link(8) calls it, if it has one.
    pub kind: Option<String>,
    /// Its hardware address.
    pub hardware: Vec<u8>,
    /// Whether it is up.
    pub up: bool,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's number.
    pub link: u32,
    /// The address, with its prefix's length.
    pub net: IpNet,
    /// Whether somebody has set it, as against an address that the kernel has from a router.
    pub permanent: bool,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whether it is for IPv6.
    pub ipv6: bool,
    /// Where to; `None` for a default route.
    pub to: Option<IpNet>,
    /// The next router, if there is just one.
    pub via: Option<IpAddr>,
    /// Whether it leads anywhere, as against one that rejects packets or drops them.
    pub unicast: bool,
    /// The routing table.
    pub table: u32,
    /// Whether it says that an administrator's program has made it, as those of netavark do and those
    /// of ip-route(8) do not (`RTPROT_STATIC`).
    pub fixed: bool,
}

/// A policy rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its place among the rules.
    pub priority: u32,
    /// The table that it leads to.
    pub table: u32,
}

/// The rules that each namespace begins with: place and table (fib_default_rules_init and
/// fib6_rules_net_init in the kernel).
const FIRST_RULES: [(u32, u32); 3] = [(0, 255), (32766, 254), (32767, 253)];

impl Routes {
    /// What is in the network namespace.
    pub fn contents(&self) -> Result<Contents> {
        let links = self.handle().link().get().execute();
        let links = self.request("list interfaces", links.try_collect::<Vec<_>>())?;
        let mut contents = Contents {
            addresses: self.given_addresses()?,
            ..Contents::default()
        };
        for message in links {
            let mut link = Link {
                number: message.header.index,
                up: message.header.flags.contains(LinkFlags::Up),
                ..Link::default()
            };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => link.name = name,
                    LinkAttribute::Address(address) => link.hardware = address,
                    LinkAttribute::LinkInfo(info) => {
                        link.kind = info.into_iter().find_map(kind_of);
                    }
                    _ => {}
                }
            }
            contents.links.push(link);
        }
        for family in families(true) {
            let ipv6 = family == AddressFamily::Inet6;
            let routes = self.routes(family)?;
            contents
                .routes
                .extend(routes.iter().filter_map(|message| route(message, ipv6)));
            for message in self.rules(family)? {
                let rule = parse_rule(&message);
                if !FIRST_RULES.contains(&(rule.priority, rule.table)) {
                    contents.rules.push(Rule {
                        priority: rule.priority,
                        table: rule.table,
                    });
                }
            }
        }
        Ok(contents)
    }

    fn given_addresses(&self) -> Result<Vec<Address>> {
        let messages = self.handle().address().get().execute();
        let messages = self.request("list addresses", messages.try_collect::<Vec<_>>())?;
        let address = messages.into_iter().filter_map(|message| {
            let (mut own, mut other, mut permanent) = (None, None, false);
            for attribute in message.attributes {
                match attribute {
                    AddressAttribute::Local(address) => own = Some(address),
                    AddressAttribute::Address(address) => other = Some(address),
                    AddressAttribute::Flags(flags) => {
                        permanent = flags.contains(AddressFlags::Permanent);
                    }
                    _ => {}
                }
            }
            // Between two ends the other one is the peer's.
            let net = IpNet::new(own.or(other)?, message.header.prefix_len).ok()?;
            Some(Address {
                link: message.header.index,
                net,
                permanent,
            })
        });
        Ok(address.collect())
    }
}

fn kind_of(info: LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

/// `None` for a route that the kernel has made, by itself or because of a router's message.
fn route(message: &RouteMessage, ipv6: bool) -> Option<Route> {
    let made = message.header.protocol;
    if matches!(
        made,
        RouteProtocol::Kernel | RouteProtocol::Ra | RouteProtocol::IcmpRedirect
    ) {
        return None;
    }
    let via = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    });
    Some(Route {
        ipv6,
        to: destination(message),
        via,
        unicast: message.header.kind == RouteType::Unicast,
        table: table(message),
        fixed: made == RouteProtocol::Static,
    })
}
