//! What happens to the container at the source: it is frozen, and CRIU dumps it.

pub mod drain;
pub mod dump;
pub mod freezer;
pub(crate) mod images;
pub mod memberships;
pub mod page_port;
pub mod processes;
pub mod repair;
pub mod sockets;
pub mod unmovable;
