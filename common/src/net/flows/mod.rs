//! Flows of the container: what becomes of each when it moves, and doing it.

pub mod carry;
pub mod decide;
pub mod neighbours;
pub mod port_forward;
pub mod published;
pub mod stand_in;
