//! Multicast groups that a socket has joined (ip(7), ipv6(7), RFC 3678).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use super::{Kind, option};

/// include/uapi/linux/in.h; the numbers are the same for IPv4 and IPv6.
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_MSFILTER: i32 = 48;

/// `MCAST_INCLUDE`: only the sources that are named may send.
const INCLUDE: u32 = 1;
/// `MCAST_EXCLUDE`: all but those that are named may.
const EXCLUDE: u32 = 0;

/// Bytes of a `struct sockaddr_storage`.
const ADDRESS_BYTES: usize = 128;
/// Bytes of a `struct group_filter` without its sources, and where its parts are: the interface, the group, the
/// mode, the number of sources.
const FILTER_BYTES: usize = GROUP + ADDRESS_BYTES + 8;
const GROUP: usize = 8;
const MODE: usize = GROUP + ADDRESS_BYTES;
const SOURCES: usize = MODE + 4;

/// More sources than a kernel takes by default for one group (`igmp_max_msf` and `mld_max_msf` in
/// Documentation/networking/ip-sysctl.rst).
const MOST_SOURCES: usize = 64;

/// A group on an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) address: IpAddr,
    pub(super) interface: u32,
}

/// Who may send to a group as far as one socket is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Senders {
    /// All but these.
    AllBut(BTreeSet<IpAddr>),
    /// Only these.
    Only(BTreeSet<IpAddr>),
}

/// The groups that any socket in the network namespace of `pid` has joined, and some that the kernel has.
pub(super) fn joined_by_any(pid: i32) -> BTreeSet<Group> {
    let read = |table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}"));
    let mut found = ipv4(&read("igmp").unwrap_or_default());
    found.extend(ipv6(&read("igmp6").unwrap_or_default()));
    found
}

/// From `/proc/net/igmp` (igmp_mc_seq_show in net/ipv4/igmp.c): below each interface its groups, in memory's order
/// of bytes.
fn ipv4(table: &str) -> BTreeSet<Group> {
    let mut found = BTreeSet::new();
    let mut interface = 0;
    for line in table.lines() {
        let Some(first) = line.split_ascii_whitespace().next() else {
            continue;
        };
        if !line.starts_with('\t') {
            interface = first.parse().unwrap_or_default();
        } else if let Ok(group) = u32::from_str_radix(first, 16) {
            let address = Ipv4Addr::from(group.to_ne_bytes()).into();
            found.insert(Group { address, interface });
        }
    }
    found
}

/// From `/proc/net/igmp6` (igmp6_mc_seq_show in net/ipv6/mcast.c).
fn ipv6(table: &str) -> BTreeSet<Group> {
    let groups = table.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let interface = fields.next()?.parse().ok()?;
        let group = u128::from_str_radix(fields.nth(1)?, 16).ok()?;
        let address = Ipv6Addr::from(group).into();
        Some(Group { address, interface })
    });
    groups.collect()
}

/// Those of `groups` that this socket has joined itself.
pub(super) fn of(
    socket: BorrowedFd<'_>,
    kind: Kind,
    groups: &BTreeSet<Group>,
) -> Vec<(Group, Senders)> {
    if kind.kind == libc::SOCK_STREAM {
        return Vec::new();
    }
    let joined = groups.iter().filter_map(|group| {
        if group.address.is_ipv6() && kind.family != libc::AF_INET6 {
            return None;
        }
        Some((group.clone(), senders(socket, group)?))
    });
    joined.collect()
}

/// Nothing if the socket has not joined the group.
fn senders(socket: BorrowedFd<'_>, group: &Group) -> Option<Senders> {
    let mut filter = filter(group, EXCLUDE, &BTreeSet::new());
    filter.resize(FILTER_BYTES + MOST_SOURCES * ADDRESS_BYTES, 0);
    filter[SOURCES..][..4].copy_from_slice(&(MOST_SOURCES as u32).to_ne_bytes());
    let length = option::read(socket, level(group), MCAST_MSFILTER, &mut filter).ok()?;
    let number = |at: usize| Some(u32::from_ne_bytes(filter.get(at..at + 4)?.try_into().ok()?));
    let listed = filter.get(FILTER_BYTES..length)?;
    let sources = listed.chunks_exact(ADDRESS_BYTES).filter_map(address);
    let sources = sources.take(number(SOURCES)? as usize).collect();
    Some(match number(MODE)? {
        INCLUDE => Senders::Only(sources),
        _ => Senders::AllBut(sources),
    })
}

/// Has the socket join a group, if it has not, with these senders. Undone by closing the socket.
///
/// # Errors
/// The kernel's.
pub(super) fn join(socket: BorrowedFd<'_>, group: &Group, wanted: &Senders) -> io::Result<()> {
    let found = senders(socket, group);
    if found.as_ref() == Some(wanted) {
        return Ok(());
    }
    if found.is_none() {
        // A `struct group_req`: a filter begins like it.
        let request = &filter(group, EXCLUDE, &BTreeSet::new())[..MODE];
        option::set(socket, level(group), MCAST_JOIN_GROUP, request)?;
    }
    let (mode, sources) = match wanted {
        Senders::AllBut(sources) => (EXCLUDE, sources),
        Senders::Only(sources) => (INCLUDE, sources),
    };
    if mode == EXCLUDE && sources.is_empty() {
        return Ok(());
    }
    let filter = filter(group, mode, sources);
    option::set(socket, level(group), MCAST_MSFILTER, &filter)
}

fn level(group: &Group) -> i32 {
    match group.address {
        IpAddr::V4(_) => libc::IPPROTO_IP,
        IpAddr::V6(_) => libc::IPPROTO_IPV6,
    }
}

/// A `struct group_filter`.
fn filter(group: &Group, mode: u32, sources: &BTreeSet<IpAddr>) -> Vec<u8> {
    let mut filter = vec![0; GROUP];
    filter[..4].copy_from_slice(&group.interface.to_ne_bytes());
    filter.extend(storage(group.address));
    filter.extend(mode.to_ne_bytes());
    filter.extend((sources.len() as u32).to_ne_bytes());
    filter.extend(sources.iter().flat_map(|source| storage(*source)));
    filter
}

/// A `struct sockaddr_storage` with a `struct sockaddr_in` or `struct sockaddr_in6`.
fn storage(address: IpAddr) -> [u8; ADDRESS_BYTES] {
    let mut bytes = [0; ADDRESS_BYTES];
    let (family, at) = match address {
        IpAddr::V4(_) => (libc::AF_INET, IPV4_AT),
        IpAddr::V6(_) => (libc::AF_INET6, IPV6_AT),
    };
    bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    match address {
        IpAddr::V4(address) => bytes[at..at + 4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes[at..at + 16].copy_from_slice(&address.octets()),
    }
    bytes
}

/// Where the address is in a `struct sockaddr_in` and in a `struct sockaddr_in6`.
const IPV4_AT: usize = 4;
const IPV6_AT: usize = 8;

fn address(storage: &[u8]) -> Option<IpAddr> {
    let family = u16::from_ne_bytes(storage.get(..2)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = storage.get(IPV4_AT..IPV4_AT + 4)?.try_into().ok()?;
            Some(octets.into())
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = storage.get(IPV6_AT..IPV6_AT + 16)?.try_into().ok()?;
            Some(octets.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn groups_are_read_with_their_interfaces() {
        let table = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                     1\tlo        :     1      V3\n\
                     \t\t\t\t010000E0     1 0:00000000\t\t0\n\
                     2\teth0      :     2      V3\n\
                     \t\t\t\tFB0000E0     1 0:00000000\t\t0\n";
        let group = |address: &str, interface| Group {
            address: address.parse().unwrap(),
            interface,
        };
        let expected = [group("224.0.0.1", 1), group("224.0.0.251", 2)];
        assert_eq!(ipv4(table), expected.into());
        let table = "1    lo    ff020000000000000000000000000001     1 0000000C 0\n\
                     2    eth0  ff0200000000000000000000000000fb     1 00000004 0\n";
        let expected = [group("ff02::1", 1), group("ff02::fb", 2)];
        assert_eq!(ipv6(table), expected.into());
    }

    #[test]
    fn what_a_socket_has_joined_another_one_joins() {
        let loopback = 1;
        let sources = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| address.parse().unwrap());
            addresses.collect::<BTreeSet<IpAddr>>()
        };
        for (local, group, senders) in [
            ("0.0.0.0:0", "239.1.2.3", Senders::AllBut(sources(&[]))),
            (
                "0.0.0.0:0",
                "239.1.2.3",
                Senders::AllBut(sources(&["192.0.2.1"])),
            ),
            (
                "0.0.0.0:0",
                "239.1.2.4",
                Senders::Only(sources(&["192.0.2.1", "192.0.2.2"])),
            ),
            ("[::]:0", "239.1.2.3", Senders::AllBut(sources(&[]))),
            (
                "[::]:0",
                "ff15::7",
                Senders::Only(sources(&["2001:db8::1"])),
            ),
        ] {
            let Ok(socket) = UdpSocket::bind(local) else {
                println!("skipped: no IPv6");
                continue;
            };
            let group = Group {
                address: group.parse().unwrap(),
                interface: loopback,
            };
            let kind = Kind::of(socket.as_fd()).unwrap();
            let all = [group.clone()].into();
            assert_eq!(of(socket.as_fd(), kind, &all), []);
            join(socket.as_fd(), &group, &senders).unwrap();
            assert!(joined_by_any(std::process::id() as i32).contains(&group));
            let expected = [(group.clone(), senders.clone())];
            assert_eq!(of(socket.as_fd(), kind, &all), expected);
            // Once more changes nothing.
            join(socket.as_fd(), &group, &senders).unwrap();
            assert_eq!(of(socket.as_fd(), kind, &all), expected);
        }
    }
}
