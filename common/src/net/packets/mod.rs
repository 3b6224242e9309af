//! Packets that must wait, or must not pass, while a container moves.

pub mod backlog;
pub mod keep_order;
pub mod mss;
pub mod quarantine;
pub mod queue;
