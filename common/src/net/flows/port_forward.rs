//! A forward as data: the ports that a container had published, and where it is now.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::container::facts::{ContainerFacts, PublishedPort};
use crate::protocol::ContainerRef;

/// What a forward does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardState {
    /// Nothing for now: the container is about to move.
    Prepared,
    /// New connections go to the container, and its ports here are bound.
    Active,
    /// New connections go to the container, but the ports are not bound: Podman binds them for its
    /// return.
    Lent,
}

/// Sends new connections to a container that has moved away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The container.
    pub container: ContainerRef,
    /// The ports that it had published here.
    pub ports: Vec<PublishedPort>,
    /// Where they go: one address of each family that it has.
    pub addresses: Vec<IpAddr>,
    /// What it does at the moment.
    pub state: ForwardState,
}

impl Forward {
    /// For a container of this host.
    pub fn of(container: &ContainerFacts) -> Self {
        let all = container.addresses();
        let first = |ipv6| all.iter().copied().find(|a| a.is_ipv6() == ipv6);
        Forward {
            container: container.reference(),
            ports: container.ports.clone(),
            addresses: [first(false), first(true)].into_iter().flatten().collect(),
            state: ForwardState::Prepared,
        }
    }

    /// Each of its ports with each address that it leads to.
    pub(crate) fn ways(&self) -> impl Iterator<Item = (&PublishedPort, IpAddr)> {
        self.ports.iter().flat_map(|port| {
            let fits = |to: &&IpAddr| {
                let asked = specific(port);
                asked.is_none_or(|asked| asked.is_ipv6() == to.is_ipv6())
            };
            self.addresses
                .iter()
                .filter(fits)
                .map(move |to| (port, *to))
        })
    }
}

/// The one address of the host that a port is published at, unless it is at all of them.
pub(crate) fn specific(port: &PublishedPort) -> Option<IpAddr> {
    port.host_address
        .filter(|address| !address.is_unspecified())
}
