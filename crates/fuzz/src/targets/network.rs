use std::collections::HashSet;
use std::net::IpAddr;

use ::conntrack::Protocol;
use common::fuzzing::{self, round_trip};
use common::net::flows::decide::{self, Arrival, MovedFlow};
use common::net::mark::Index;
use common::net::tunnel::agreement::{Agreement, InUse, Offer, PublicKey, Terms, answer};

use super::text;

pub(super) fn agreements(input: &[u8]) {
    if let Some(terms) = round_trip::<Terms>(input) {
        for end in &terms.agreement.ends {
            seen_from_both(&terms.agreement, &end.public_key);
        }
    }
    let Some(offer) = round_trip::<Offer>(input) else {
        return;
    };
    let here = PublicKey("a key of this host".to_owned());
    let in_use = InUse {
        ipv6: true,
        ..InUse::default()
    };
    for ours in [&[][..], &offer.tunnels[..]] {
        if let Ok(agreement) = answer(&offer, &here, ours, &in_use) {
            seen_from_both(&agreement, &here);
        }
    }
}

/// What a host makes of an agreement that another one has named.
fn seen_from_both(agreement: &Agreement, key: &PublicKey) {
    let Some(view) = fuzzing::view(agreement, key) else {
        return;
    };
    let Some(there) = fuzzing::view(agreement, &view.peer.public_key) else {
        panic!("a tunnel without another end");
    };
    let addresses: Vec<IpAddr> = view.addresses.iter().map(|net| net.addr()).collect();
    assert_eq!(there.peer_addresses, addresses);
}

pub(super) fn moved_flows(input: &[u8]) {
    let tunnel = Index::all().next().expect("there are some");
    for moved in round_trip::<Vec<MovedFlow>>(input).unwrap_or_default() {
        for here in [HashSet::new(), [moved.peer()].into()] {
            let Arrival::Insert(flow) = decide::arrive(&moved, None, tunnel, &here) else {
                panic!("nothing is there to be marked");
            };
            decide::depart(&moved, &flow, tunnel);
            let _ = decide::seen_by_container(&flow, &[moved.container()].into());
            if let Some(message) = conntrack::fuzzing::insertion(&flow) {
                conntrack::fuzzing::flows(&message);
            }
        }
    }
}

pub(super) fn bypass(input: &[u8]) {
    fuzzing::bypass(input);
}

pub(super) fn conntrack(input: &[u8]) {
    for mut flow in conntrack::fuzzing::flows(input) {
        // These the kernel makes by itself.
        flow.counters = None;
        flow.id = None;
        let Some(message) = conntrack::fuzzing::insertion(&flow) else {
            continue;
        };
        let again = conntrack::fuzzing::flows(&message);
        let [again] = &again[..] else {
            panic!("an entry that cannot be read again: {flow:?}");
        };
        if !matches!(
            flow.original.protocol,
            Protocol::Icmp { .. } | Protocol::Icmpv6 { .. }
        ) {
            // Queries have no ports, whatever was read.
            assert_eq!(again.original, flow.original);
        }
        assert_eq!((again.mark, again.zone), (flow.mark, flow.zone));
    }
}

pub(super) fn netfilter(input: &[u8]) {
    fuzzing::netfilter(input);
    fuzzing::echo(input, b"\0\0\x12\x34abcd");
}

pub(super) fn nft(input: &[u8]) {
    fuzzing::nft(&text(input));
}

pub(super) fn iptables(input: &[u8]) {
    fuzzing::iptables(&text(input));
    fuzzing::ports(&text(input));
}
