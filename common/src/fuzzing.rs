//! What crates/fuzz feeds with bytes and could not reach otherwise. Only with the feature `fuzzing`.
//!
//! Each function gives one kind of input to the code that reads it in the product, and does with the
//! result what the product does, short of touching this host.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bulk;
use crate::container::apparmor;
use crate::container::checkpoint::dump;
use crate::container::podman::{image, inspect, list, objects};
use crate::container::restore::{timerfds, watch};
use crate::container::runtime;
use crate::net::foreign_firewalls;
use crate::net::kernel::nfnetlink;
use crate::net::mark::Index;
use crate::net::packets::queue;
use crate::net::rules;
use crate::net::tunnel::agreement::{Agreement, PublicKey, View};
use crate::net::tunnel::bypass::messages::{BypassReply, BypassRequest};
use crate::net::tunnel::in_use;
use crate::ticket::Ticket;

/// Reads a `T` from JSON. What is written of it reads as the same again.
///
/// # Panics
/// If it does not.
pub fn round_trip<T: Serialize + DeserializeOwned>(json: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(json).ok()?;
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    let again = serde_json::to_vec(&again).expect("what was read can be written");
    assert_eq!(
        String::from_utf8_lossy(&written),
        String::from_utf8_lossy(&again)
    );
    Some(read)
}

/// A message between the keepers of a tunnel.
pub fn bypass(json: &[u8]) {
    round_trip::<BypassRequest>(json);
    round_trip::<BypassReply>(json);
}

/// An agreement that the other host has named, seen from the end with this key, if it has such an end.
pub fn view(agreement: &Agreement, key: &PublicKey) -> Option<View> {
    agreement.view(key)
}

/// What a bulk connection opens with. Whether it was let in.
pub fn preamble(bytes: &[u8], ticket: &Ticket, stream: u32) -> bool {
    let preamble = bytes.first_chunk::<{ bulk::PREAMBLE }>();
    preamble.is_some_and(|preamble| bulk::check_preamble(preamble, ticket, stream).is_ok())
}

/// What arrives at the socket that waits for an echo. Whether it is `reply`.
pub fn echo(datagram: &[u8], reply: &[u8; 8]) -> bool {
    crate::net::tunnel::echo::is(datagram, reply)
}

/// An answer from netfilter: an errno, a generation, the number of a packet.
pub fn netfilter(datagram: &[u8]) -> (Option<i32>, Option<u32>, Option<u32>) {
    (
        nfnetlink::answer(datagram),
        nfnetlink::generation(datagram),
        queue::packet(datagram),
    )
}

/// A ruleset as `nft -j` prints it. What there is to say of it.
pub fn nft(ruleset: &str) -> Vec<String> {
    let mut said: Vec<_> = foreign_firewalls::judged(ruleset, "")
        .into_iter()
        .map(|obstacle| obstacle.found)
        .collect();
    let value: Value = serde_json::from_str(ruleset).unwrap_or_default();
    said.extend(in_use::mark_conflicts(&value));
    let index = Index::all().next().expect("there are some");
    said.extend(rules::tunnel::incomplete_forwards(ruleset, index));
    said
}

/// Rules as `iptables-save` prints them. What there is to say of them.
pub fn iptables(saved: &str) -> Vec<String> {
    let obstacles = foreign_firewalls::judged("", saved);
    obstacles.into_iter().map(|o| o.found).collect()
}

/// A table in `/proc/net` of sockets. The ports in it.
pub fn ports(table: &str) -> Vec<u16> {
    table.lines().filter_map(in_use::local_port).collect()
}

/// A log of CRIU's or of a runtime's. The errors in it.
pub fn log(text: &str) -> [Option<String>; 2] {
    [dump::error_line(text), watch::last_error(text)]
}

/// CRIU's image of the open files. Writes the mended one and says how many timers were mended.
///
/// # Errors
/// If it is no such image.
pub fn files_image(image: &[u8], new: &mut impl Write) -> io::Result<usize> {
    timerfds::copy(image, new)
}

/// What Podman and the runtimes print or keep as JSON.
pub fn podman(text: &str) {
    inspect::read(text);
    objects::read(text);
    for container in list::read(text).unwrap_or_default() {
        let all = [container.clone(), container.clone()];
        for given in [&container.id, &container.name, "a", ""] {
            if let Err(error) = list::resolve(&all, given) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
    let state: Value = serde_json::from_str(text).unwrap_or_default();
    runtime::of_crun(&state).or_else(|| runtime::of_runc(&state));
}

/// An image as Podman saves it, without a layer. What is left of it.
///
/// # Errors
/// If it is no archive.
pub fn image(archive: &mut impl Read, new: &mut impl Write) -> io::Result<()> {
    image::copy_without(&["sha256:aa".to_owned()], archive, new)
}

/// A label that confines a process.
pub fn label(text: &str) -> Option<String> {
    apparmor::parse_label(text)
}
