//! What both agents share: the protocol, the container on this host ([`container`]), the network
//! of this host ([`net`]), and the records kept of migrations.
//!
//! Kernel objects are touched in [`net`] and [`container`] only. Protocol, preflight rules, flow
//! rewriting and reports are pure and tested without root.

pub mod bulk;
pub mod command;
pub mod container;
pub mod durable;
pub mod faults;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod host;
pub mod journal;
pub mod lock;
pub mod log;
pub mod multicall;
pub mod net;
pub mod paths;
pub mod preflight;
pub mod protocol;
pub mod report;
pub mod status;
pub mod systemd;
pub mod ticket;
pub mod transaction;
pub mod undo;
pub mod units;
