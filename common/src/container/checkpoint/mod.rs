//! What happens to the container at the source: it is frozen, and CRIU dumps it.

pub mod copies;
pub mod drain;
pub mod dump;
pub mod freezer;
pub mod huge_pages;
pub(crate) mod images;
pub mod page_port;
pub mod processes;
pub mod repair;
pub mod unmovable;
