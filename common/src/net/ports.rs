//! The agents' TCP ports inside tunnels. A tunnel's firewall rules let connections between its two ends
//! through to these only ([`crate::net::rules`]).

/// The keepers' ([`crate::net::tunnel::bypass`]).
pub const KEEPER: u16 = 50052;

/// The first and the last at which bulk streams are received ([`crate::bulk`]): each migration has its own.
pub const BULK: [u16; 2] = [52_000, 52_099];
