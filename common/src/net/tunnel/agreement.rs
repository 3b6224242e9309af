//! What two hosts agree on before a tunnel is made. Pure: nothing here asks the kernel.
//!
//! The source sends an [`Offer`]; the destination, which then knows what both ends have in use,
//! answers with an [`Agreement`]. Subnets, ports and keys are agreed; index, interface, routing
//! table, rule and marks are each host's own affair (see [`Index`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::subnet::{Place, Subnet4, Subnet6};
use crate::net::mark::Index;
use crate::ticket::Ticket;

/// A WireGuard public key, in base64 as `wg` prints it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(pub String);

/// What a host has in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InUse {
    /// Its addresses (with their on-link prefixes) and the destinations of its routes, in all
    /// tables. Default routes are not among them.
    pub prefixes: Vec<IpNet>,
    /// Indexes that cannot be allotted, each with the first reason found.
    pub indexes: Vec<(Index, String)>,
    /// Statements of other software that overwrite the bits of the mark that are ours.
    pub mark_conflicts: Vec<String>,
    /// Whether new interfaces may have IPv6 addresses.
    pub ipv6: bool,
}

/// Why the hosts cannot agree on a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgreementError {
    /// Other software overwrites our bits of the packet mark or the connmark.
    #[error("firewall rules of other software use bits 16 to 27 of the mark: {}", .0.join("; "))]
    MarkConflict(Vec<String>),
    /// All 63 indexes are taken.
    #[error("no tunnel number is free; the first reasons: {}", .0.join("; "))]
    NoIndex(Vec<String>),
    /// Every candidate overlaps an address or a route of one of the ends.
    #[error("no private {0} subnet is free on both hosts")]
    NoSubnet(&'static str),
}

impl InUse {
    /// The lowest index that this host can use. Two migrations that start at once get the same one,
    /// and so end up sharing one tunnel.
    pub fn allot(&self) -> Result<Index, AgreementError> {
        if !self.mark_conflicts.is_empty() {
            return Err(AgreementError::MarkConflict(self.mark_conflicts.clone()));
        }
        let taken: BTreeSet<Index> = self.indexes.iter().map(|(index, _)| *index).collect();
        Index::all()
            .find(|index| !taken.contains(index))
            .ok_or_else(|| {
                let reasons = self.indexes.iter().take(3).map(|(_, why)| why.clone());
                AgreementError::NoIndex(reasons.collect())
            })
    }
}

/// What the source tells the destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The source's WireGuard key.
    pub public_key: PublicKey,
    /// The UDP port that a new tunnel would use at the source.
    pub port: u16,
    /// See [`InUse::prefixes`].
    pub prefixes: Vec<IpNet>,
    /// See [`InUse::ipv6`].
    pub ipv6: bool,
    /// The tunnels the source has, to any host: one of them may be to this destination.
    pub tunnels: Vec<Agreement>,
}

/// One end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct End {
    /// Its WireGuard key.
    pub public_key: PublicKey,
    /// Its UDP port.
    pub port: u16,
}

/// What both ends of a tunnel have agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// The ends, ordered by key: it does not matter which of them sent a container first.
    pub ends: [End; 2],
    /// Its first host address is that of the first end.
    pub ipv4: Subnet4,
    /// Likewise, if both hosts have IPv6.
    pub ipv6: Option<Subnet6>,
}

/// What the destination answers to an [`Offer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// What both ends agree on.
    pub agreement: Agreement,
    /// The secret that each end's keeper presents to the other. Told to nobody else.
    pub ticket: Ticket,
}

/// An [`Agreement`] as seen from one of its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// This end.
    pub local: End,
    /// The other end.
    pub peer: End,
    /// This end's addresses, with their prefix lengths; IPv4 first.
    pub addresses: Vec<IpNet>,
    /// The other end's addresses, in the same order.
    pub peer_addresses: Vec<IpAddr>,
}

impl Agreement {
    /// The agreement as the owner of `key` sees it; `None` if it is somebody else's.
    pub fn view(&self, key: &PublicKey) -> Option<View> {
        let place = match &self.ends {
            // A tunnel to oneself.
            [first, second] if first.public_key == second.public_key => return None,
            [first, _] if first.public_key == *key => Place::First,
            [_, second] if second.public_key == *key => Place::Second,
            _ => return None,
        };
        let host = |place| {
            let ipv6 = self.ipv6.map(|subnet| subnet.host(place));
            [self.ipv4.host(place)].into_iter().chain(ipv6)
        };
        Some(View {
            local: self.ends[place.index()].clone(),
            peer: self.ends[place.other().index()].clone(),
            addresses: host(place)
                .zip(self.networks())
                .map(|(address, net)| IpNet::new(address, net.prefix_len()).expect("same family"))
                .collect(),
            peer_addresses: host(place.other()).collect(),
        })
    }

    fn networks(&self) -> impl Iterator<Item = IpNet> {
        let ipv6 = self.ipv6.map(|subnet| IpNet::V6(subnet.into()));
        [IpNet::V4(self.ipv4.into())].into_iter().chain(ipv6)
    }

    fn is_between(&self, a: &PublicKey, b: &PublicKey) -> bool {
        self.view(a).is_some_and(|view| view.peer.public_key == *b)
    }

    pub(crate) fn overlaps(&self, prefixes: &[IpNet]) -> bool {
        self.networks().any(|net| overlaps(&net, prefixes))
    }
}

/// The destination's answer to an offer.
///
/// A tunnel that both ends have is reused. So is one that only the destination has, if it fits what
/// the source offers: then the source is about to make its half for another migration, or has lost it.
pub fn answer(
    offer: &Offer,
    key: &PublicKey,
    tunnels: &[Agreement],
    in_use: &InUse,
) -> Result<Agreement, AgreementError> {
    let mut ours = tunnels
        .iter()
        .filter(|tunnel| tunnel.is_between(key, &offer.public_key));
    let fits = |tunnel: &&Agreement| {
        offer.tunnels.contains(tunnel)
            || tunnel
                .view(&offer.public_key)
                .is_some_and(|view| view.local.port == offer.port)
                && !tunnel.overlaps(&offer.prefixes)
    };
    if let Some(tunnel) = ours.find(fits) {
        return Ok(tunnel.clone());
    }
    let mut ends = [
        End {
            public_key: offer.public_key.clone(),
            port: offer.port,
        },
        End {
            public_key: key.clone(),
            port: in_use.allot()?.port(),
        },
    ];
    ends.sort();
    let taken = [&offer.prefixes[..], &in_use.prefixes[..]].concat();
    // The seed gives different pairs of hosts different subnets, so that a third host seldom finds
    // that the same one is in use.
    let seed = [&ends[0].public_key.0, &ends[1].public_key.0].map(String::as_str);
    let free = |net: &IpNet| !overlaps(net, &taken);
    let ipv4 = Subnet4::candidates(&seed.concat())
        .find(|subnet| free(&IpNet::V4((*subnet).into())))
        .ok_or(AgreementError::NoSubnet("IPv4"))?;
    let ipv6 = if offer.ipv6 && in_use.ipv6 {
        let subnet =
            Subnet6::candidates(&seed.concat()).find(|subnet| free(&IpNet::V6((*subnet).into())));
        Some(subnet.ok_or(AgreementError::NoSubnet("IPv6"))?)
    } else {
        None
    };
    Ok(Agreement { ends, ipv4, ipv6 })
}

fn overlaps(net: &IpNet, prefixes: &[IpNet]) -> bool {
    prefixes
        .iter()
        .any(|other| net.contains(other) || other.contains(net))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::Ipv4Net;

    fn key(name: &str) -> PublicKey {
        PublicKey(name.into())
    }

    fn in_use(prefixes: &[&str]) -> InUse {
        InUse {
            prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
            ipv6: true,
            ..InUse::default()
        }
    }

    fn offer(prefixes: &[&str]) -> Offer {
        Offer {
            public_key: key("source"),
            port: 51_821,
            prefixes: in_use(prefixes).prefixes,
            ipv6: true,
            tunnels: vec![],
        }
    }

    fn agree(offer: &Offer, in_use: &InUse) -> Agreement {
        answer(offer, &key("destination"), &[], in_use).unwrap()
    }

    #[test]
    fn subnets_overlap_nothing_of_either_end() {
        let first = agree(&offer(&[]), &in_use(&[]));
        let v4 = first.ipv4.to_string();
        let v6 = first.ipv6.unwrap().to_string();
        for (source, destination) in [
            (vec![v4.as_str()], vec![v6.as_str()]),
            (vec![v6.as_str()], vec![v4.as_str()]),
            (vec!["10.0.0.0/8"], vec!["172.16.0.0/12", "192.168.0.0/17"]),
        ] {
            let (offer, in_use) = (offer(&source), in_use(&destination));
            let agreement = agree(&offer, &in_use);
            let both = [&offer.prefixes[..], &in_use.prefixes[..]].concat();
            assert!(!agreement.overlaps(&both), "{agreement:?}");
        }
    }

    #[test]
    fn the_choice_is_deterministic_and_differs_between_pairs() {
        let here = agree(&offer(&[]), &in_use(&[]));
        assert_eq!(here, agree(&offer(&[]), &in_use(&[])));
        let other = answer(&offer(&[]), &key("third"), &[], &in_use(&[])).unwrap();
        assert_ne!(here.ipv4, other.ipv4);
        assert_ne!(here.ipv6, other.ipv6);
    }

    #[test]
    fn nothing_free_is_said() {
        let all = [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.0.0.0/8",
        ];
        let error = answer(&offer(&all), &key("d"), &[], &in_use(&[])).unwrap_err();
        assert_eq!(error, AgreementError::NoSubnet("IPv4"));
        let error = answer(&offer(&["fd00::/8"]), &key("d"), &[], &in_use(&[])).unwrap_err();
        assert_eq!(error, AgreementError::NoSubnet("IPv6"));
    }

    #[test]
    fn without_ipv6_at_one_end_there_is_none() {
        let mut offer = offer(&["fd00::/8"]);
        offer.ipv6 = false;
        assert_eq!(agree(&offer, &in_use(&[])).ipv6, None);
    }

    #[test]
    fn both_ends_see_mirror_images() {
        let agreement = agree(&offer(&[]), &in_use(&[]));
        let here = agreement.view(&key("source")).unwrap();
        let there = agreement.view(&key("destination")).unwrap();
        assert_eq!(here.local, there.peer);
        assert_eq!(here.peer, there.local);
        assert_eq!(here.local.port, 51_821);
        let addresses = |view: &View| view.addresses.iter().map(IpNet::addr).collect::<Vec<_>>();
        assert_eq!(addresses(&here), there.peer_addresses);
        assert_eq!(addresses(&there), here.peer_addresses);
        let mut hosts = Ipv4Net::from(agreement.ipv4).hosts();
        assert!(hosts.any(|host| addresses(&here)[0] == host));
        assert!(agreement.view(&key("third")).is_none());
    }

    #[test]
    fn a_tunnel_both_have_is_used_again_by_either_side() {
        let agreement = agree(&offer(&[]), &in_use(&[]));
        let subnet = agreement.ipv4.to_string();
        let mut offer = offer(&[&subnet]);
        offer.port = 51_822;
        offer.tunnels = vec![agreement.clone()];
        let ours = [agreement.clone()];
        let reused = answer(&offer, &key("destination"), &ours, &in_use(&[&subnet])).unwrap();
        assert_eq!(reused, agreement);

        offer.public_key = key("destination");
        let back = answer(&offer, &key("source"), &ours, &in_use(&[&subnet])).unwrap();
        assert_eq!(back, agreement);
    }

    #[test]
    fn a_tunnel_only_the_destination_has_is_used_if_it_fits() {
        let agreement = agree(&offer(&[]), &in_use(&[]));
        let subnet = agreement.ipv4.to_string();
        let ours = [agreement.clone()];
        let answer =
            |offer: &Offer| answer(offer, &key("destination"), &ours, &in_use(&[&subnet])).unwrap();
        assert_eq!(answer(&offer(&[])), agreement);
        assert_ne!(answer(&offer(&[&subnet])), agreement);
        let mut elsewhere = offer(&[]);
        elsewhere.port = 51_829;
        assert_ne!(answer(&elsewhere), agreement);
    }

    #[test]
    fn a_tunnel_only_the_source_has_is_not_used() {
        let agreement = agree(&offer(&[]), &in_use(&[]));
        let subnet = agreement.ipv4.to_string();
        let mut offer = offer(&[&subnet]);
        offer.port = 51_822;
        offer.tunnels = vec![agreement.clone()];
        let fresh = agree(&offer, &in_use(&[]));
        assert_ne!(fresh.ipv4, agreement.ipv4);
        assert_eq!(fresh.view(&key("source")).unwrap().local.port, 51_822);
    }

    #[test]
    fn the_lowest_free_index_is_allotted() {
        let mut in_use = in_use(&[]);
        assert_eq!(in_use.allot().unwrap().get(), 1);
        in_use.indexes = [1, 3]
            .map(|n| (Index::try_from(n).unwrap(), "in use".into()))
            .into();
        assert_eq!(in_use.allot().unwrap().get(), 2);
        in_use.indexes = Index::all().map(|n| (n, "in use".into())).collect();
        assert!(matches!(in_use.allot(), Err(AgreementError::NoIndex(_))));
        in_use.mark_conflicts = vec!["table ip other".into()];
        assert!(matches!(
            in_use.allot(),
            Err(AgreementError::MarkConflict(_))
        ));
    }

    #[test]
    fn messages_survive_serialization() {
        let mut offer = offer(&["192.0.2.0/24", "2001:db8::/64"]);
        offer.tunnels = vec![agree(&offer, &in_use(&[]))];
        let text = serde_json::to_string(&offer).unwrap();
        assert_eq!(serde_json::from_str::<Offer>(&text).unwrap(), offer);
    }
}
