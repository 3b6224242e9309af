//! Interfaces and their addresses.

use std::collections::HashSet;
use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::{LinkUnspec, LinkWireguard};

use super::connection::{Result, RouteError, Routes, gone, there_already};

impl Routes {
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

    pub(super) fn existing(&self, name: &str) -> Result<u32> {
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

    /// Deletes an interface with its addresses and routes, if it exists.
    pub fn delete_interface(&self, interface: &str) -> Result<()> {
        let Some(number) = self.interface(interface)? else {
            return Ok(());
        };
        let delete = self.handle.link().del(number).execute();
        gone(self.request(format!("delete {interface}"), delete))
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
}
