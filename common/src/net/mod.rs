//! The network between two hosts: one WireGuard tunnel per pair of hosts, and the rules that send
//! the packets of moved flows through it.
//!
//! A flow that must go through a tunnel carries the tunnel's number in its connmark ([`mark`]);
//! firewall rules copy it to the packet ([`firewall`]), and a policy rule leads marked packets to
//! a table whose only route is the tunnel ([`routes`]). Nothing else on the host is touched, and
//! unmarked packets never notice.
//!
//! Kernel objects of the hosts' network are changed here only. All of it blocks: call it from
//! threads that may (`tokio::task::spawn_blocking`). It works on the network namespace of the
//! calling thread.

pub mod admit;
pub mod carry;
mod echo;
pub mod features;
pub mod firewall;
pub mod flows;
pub mod forward;
pub mod hold;
pub mod introduction;
pub mod keeper;
pub mod mark;
pub mod neighbours;
pub mod netns;
mod nfnetlink;
pub mod occupied;
pub mod order;
pub mod overflow;
pub mod plan;
pub mod published;
pub mod quarantine;
pub mod routes;
pub mod segments;
pub mod stand_in;
pub mod sysctl;
pub mod tunnel;
mod upkeep;
pub mod userspace;
pub mod wireguard;

#[cfg(test)]
mod tests;
