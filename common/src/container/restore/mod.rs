//! What happens to the container at the destination: it comes to life, but runs only when it may.

pub mod gate;
pub mod profile;
pub mod skeleton;
pub mod starter;
pub mod timerfds;
pub(crate) mod watch;
