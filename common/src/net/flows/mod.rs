//! Flows of the container: what becomes of each when it moves, and doing it.

pub mod apply;
pub mod decide;
pub mod guests;
pub mod neighbours;
pub mod placeholder;
pub mod port_forward;
pub mod port_forwards;
