//! What of routing is in use.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};

use super::connection::{Result, Routes, families};

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

impl Routes {
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
}

pub(super) fn parse_rule(message: &RuleMessage) -> PolicyRule {
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

pub(super) fn table(route: &RouteMessage) -> u32 {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(route.header.table.into())
}

pub(super) fn destination(route: &RouteMessage) -> Option<IpNet> {
    route.attributes.iter().find_map(|attribute| {
        let address = match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => IpAddr::V4(*ip),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => IpAddr::V6(*ip),
            _ => return None,
        };
        IpNet::new(address, route.header.destination_prefix_length).ok()
    })
}
