//! What happens to the container at the source: it stands still and is written down by CRIU.

pub mod drain;
pub mod dump;
pub mod freezer;
pub(crate) mod images;
pub mod processes;
pub mod repair;
pub mod sockets;
