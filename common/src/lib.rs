//! What both agents share: the protocol, containers on this host ([`container`]), this host's
//! network ([`net`]), and the records of migrations.
//!
//! Only [`net`] and [`container`] touch kernel objects. Protocol, preflight rules, flow
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
