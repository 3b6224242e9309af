//! What happens to the container at the destination: it is restored, but runs only once it may.

pub mod gate;
pub mod pager;
pub mod profile;
pub mod skeleton;
pub mod starter;
pub mod timerfds;
pub(crate) mod watch;
