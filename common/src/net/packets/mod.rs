//! Packets that must wait, or that nobody may see, while a container is on its way.

pub mod hold;
pub mod order;
pub mod quarantine;
pub mod segments;
