//! The tunnel between two hosts: what they agree on, its interface, the process that keeps it, its end.

pub mod admit;
mod echo;
pub mod features;
pub mod introduction;
pub mod keeper;
pub mod lifecycle;
pub mod occupied;
pub mod overflow;
pub mod plan;
mod upkeep;
pub mod userspace;
pub mod wireguard;
