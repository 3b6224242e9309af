//! nftables: the rules of a tunnel.

pub mod firewall;
