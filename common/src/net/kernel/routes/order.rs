//! Which of several default routes comes first.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt};
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::connection::{Result, Routes};
use super::facts::{destination, table};

/// The main routing table (rtnetlink(7)).
const MAIN: u32 = 254;

impl Routes {
    /// The interfaces of the IPv4 default routes, in the order in which the kernel tries them; those of one metric it
    /// lists in that order (`fn_trie_dump_leaf` in the kernel's net/ipv4/fib_trie.c).
    pub fn default_interfaces(&self) -> Result<Vec<String>> {
        let names = self.names()?;
        let routes = self.default_routes()?;
        let numbers = routes.iter().filter_map(interface);
        Ok(numbers.filter_map(|n| names.get(&n).cloned()).collect())
    }

    /// Puts the IPv4 default routes into the order of these interfaces; those of others come before them. Nothing
    /// changes if they are in that order. There is always one of them meanwhile. Not undone.
    pub fn order_default_routes(&self, interfaces: &[String]) -> Result<()> {
        let names = self.names()?;
        let routes = self.default_routes()?;
        let name = |route: &RouteMessage| names.get(&interface(route)?);
        let known = routes.iter().filter_map(name);
        let known: Vec<&String> = known.filter(|name| interfaces.contains(name)).collect();
        let wanted: Vec<&String> = interfaces.iter().filter(|i| known.contains(i)).collect();
        if known == wanted {
            return Ok(());
        }
        for wanted in wanted {
            for route in routes.iter().filter(|route| name(route) == Some(wanted)) {
                let mut route = route.clone();
                // They tell of a state, and may not be set.
                route.header.flags = Default::default();
                let what = format!("move the default route through {wanted}");
                let delete = self.handle.route().del(route.clone()).execute();
                self.request(&what, delete)?;
                self.request(&what, append(self.handle.clone(), route))?;
            }
        }
        Ok(())
    }

    fn default_routes(&self) -> Result<Vec<RouteMessage>> {
        let mut routes = self.routes(AddressFamily::Inet)?;
        routes.retain(|route| {
            table(route) == MAIN
                && destination(route).is_none()
                && route.header.kind == RouteType::Unicast
        });
        Ok(routes)
    }

    fn names(&self) -> Result<HashMap<u32, String>> {
        let links = self.handle.link().get().execute();
        let links = self.request("list interfaces", links.try_collect::<Vec<_>>())?;
        let names = links.into_iter().filter_map(|link| {
            let mut attributes = link.attributes.into_iter();
            let name = attributes.find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            Some((link.header.index, name?))
        });
        Ok(names.collect())
    }
}

fn interface(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(number) => Some(*number),
            _ => None,
        })
}

/// Adds a route behind those of the same metric.
async fn append(
    mut handle: Handle,
    route: RouteMessage,
) -> std::result::Result<(), rtnetlink::Error> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(route));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
    let mut answers = handle.request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
    }
    Ok(())
}
