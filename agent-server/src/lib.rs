//! The destination's agent. `main.rs` only parses the command line.
//!
//! [`listener`] accepts connections, [`session`] decides what a peer may ask when, [`incoming`]
//! carries it out, [`survey`] looks at this host for preflight, [`recovery`] cleans up after a
//! crash. [`metrics`] counts.

pub mod cli;
mod connections;
pub mod destination;
pub mod incoming;
pub mod listener;
pub mod metrics;
pub mod podman_host;
pub mod recovery;
mod reservation;
mod scratch;
pub mod session;
mod supervisor;
pub mod survey;
