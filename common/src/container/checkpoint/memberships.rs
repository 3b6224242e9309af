//! Multicast groups that a container's programs have joined: CRIU does not join them again.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The groups joined in the network namespace of `pid`, without those that the kernel joins itself.
pub fn of(pid: i32) -> BTreeSet<IpAddr> {
    let read = |table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}"));
    let mut found = ipv4(&read("igmp").unwrap_or_default());
    found.extend(ipv6(&read("igmp6").unwrap_or_default()));
    found
}

/// From `/proc/net/igmp` (igmp_mc_seq_show in net/ipv4/igmp.c): below each interface its groups, in
/// memory's order of bytes. Each interface has joined 224.0.0.1.
fn ipv4(table: &str) -> BTreeSet<IpAddr> {
    let groups = table.lines().filter(|line| line.starts_with("\t\t"));
    let groups = groups.filter_map(|line| line.split_ascii_whitespace().next());
    groups
        .filter_map(|group| u32::from_str_radix(group, 16).ok())
        .map(|group| Ipv4Addr::from(group.to_ne_bytes()))
        .filter(|group| *group != Ipv4Addr::new(224, 0, 0, 1))
        .map(IpAddr::V4)
        .collect()
}

/// From `/proc/net/igmp6` (igmp6_mc_seq_show in net/ipv6/mcast.c). The kernel joins the groups of all
/// nodes, those of routers, and one for each address (RFC 4291, 2.7.1 and 2.8).
fn ipv6(table: &str) -> BTreeSet<IpAddr> {
    let groups = table
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(2));
    groups
        .filter_map(|group| u128::from_str_radix(group, 16).ok())
        .map(Ipv6Addr::from)
        .filter(|group| {
            let parts = group.segments();
            let nodes_or_routers = parts[1..7] == [0; 6] && matches!(parts[7], 1 | 2);
            let of_an_address = parts[0] == 0xff02 && parts[5] == 1 && parts[6] >> 8 == 0xff;
            !nodes_or_routers && !of_an_address
        })
        .map(IpAddr::V6)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_programs_have_joined_counts() {
        let table = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                     2\teth0      :     2      V3\n\
                     \t\t\t\tFB0000E0     1 0:00000000\t\t0\n\
                     \t\t\t\t010000E0     1 0:00000000\t\t0\n";
        assert_eq!(ipv4(table), ["224.0.0.251".parse().unwrap()].into());
        let table = "1    lo    ff020000000000000000000000000001     1 0000000C 0\n\
                     1    lo    ff010000000000000000000000000001     1 00000008 0\n\
                     2    eth0  ff0200000000000000000001ffa3dfac     1 00000004 0\n\
                     2    eth0  ff020000000000000000000000000002     1 00000004 0\n\
                     2    eth0  ff0200000000000000000000000000fb     1 00000004 0\n";
        assert_eq!(ipv6(table), ["ff02::fb".parse().unwrap()].into());
    }
}
