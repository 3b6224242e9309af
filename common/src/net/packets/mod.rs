//! Packets that must wait, or that nobody may see, while a container is on its way.

pub mod keep_order;
pub mod mss;
pub mod quarantine;
pub mod queue;
