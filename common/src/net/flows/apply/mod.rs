//! Flows in the kernel: listing a container's, installing those that arrive, redirecting those that
//! leave. [`crate::net::flows::decide`] makes the decisions; this applies them through netlink.
//!
//! Every call opens its own netlink socket in the calling thread's network namespace.

mod arriving;
mod departing;
mod entries;
mod rerouting;

pub use arriving::{Arriving, Here, Installed, arriving};
pub use departing::{Departing, back_to_container, departing, forget_returned, left_behind};
pub use rerouting::{leaving_through, reroute, return_through, through_tunnels};
