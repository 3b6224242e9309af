//! The rule and the routing table of a tunnel.

use std::net::{Ipv4Addr, Ipv6Addr};

use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::connection::{Result, Routes, families, gone, there_already};
use super::facts::{parse_rule, table};
use crate::net::mark::{FWMARK_MASK, Index};

impl Routes {
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
