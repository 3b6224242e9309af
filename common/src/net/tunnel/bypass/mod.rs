//! How a host that flows merely pass through is taken out of their path.
//!
//! ```text
//!   entry                        middle                             container
//!   keeper of its tunnel         agent-client, after a migration    agent-server
//!   to the middle                from the middle
//!        ◀─────── Offer ─────────────┤
//!                                    ├──────── Introduce ──────────────▶  its end of a tunnel
//!   its end of it  ◀── Meet ─────────┤                                    to the entry is up
//!        ◀─────── Redirect ──────────┤
//!        ├──────────── Return, to the keeper of the new tunnel ────────▶  packets to the peers
//!   packets to the container                                              wait
//!   wait             ◀─ echo ────────┼────────── echo ─────────────────▶
//!        ◀─────── Arrived ───────────┤
//!   and go straight ─────────── Arrived ────────────────────────────────▶  and go straight
//! ```
//!
//! When a container moves on from the middle, its flows reach its new host only through the middle. The
//! entry trusts the middle with them already; now the middle names the host that it has trusted with the
//! container. Until `Redirect` is answered, and if any of this fails, the flows go on through the middle.
//!
//! Packets on the short path would overtake those still on their way through the middle, so they wait
//! ([`crate::net::packets::keep_order`]). What the middle sends through both tunnels after `Redirect` is
//! behind those packets in each of them: when its echoes are back, nothing is on the long path any more, in
//! either direction.
//!
//! New connections that the entry sends after the container ([`crate::net::flows::port_forwards`]) follow
//! it in the same conversation.
//!
//! The keepers listen at [`crate::net::ports::KEEPER`] of the tunnel's address, on the tunnel's interface only, and require the
//! tunnel's ticket first. Then come [frames](crate::protocol::frame), one reply per request.

mod answer;
mod ask;
pub(crate) mod messages;

pub(crate) use answer::{Stay, expect, serve};
pub(crate) use ask::ask_to_stay;
pub use ask::{Bypass, BypassError};
