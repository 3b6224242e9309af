//! The network between two hosts: one WireGuard tunnel per pair of hosts, and the rules that send
//! the packets of moved flows through it.
//!
//! A flow that must go through a tunnel carries the tunnel's number in its connmark ([`mark`]);
//! firewall rules copy it to the packet ([`rules`]), and a policy rule leads marked packets to
//! a table whose only route is the tunnel ([`kernel::routes`]). Nothing else on the host is touched, and
//! unmarked packets never notice.
//!
//! Kernel objects of the hosts' network are changed here only. All of it blocks: call it from
//! threads that may (`tokio::task::spawn_blocking`). It works on the network namespace of the
//! calling thread.

pub mod flows;
pub mod foreign_firewalls;
pub mod inside;
pub mod kernel;
pub mod mark;
pub mod packets;
pub mod ports;
pub mod rules;
pub mod state;
pub mod tunnel;

#[cfg(test)]
mod tests;
