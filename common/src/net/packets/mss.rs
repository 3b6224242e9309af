//! The size of what restored TCP connections send.
//!
//! A connection that CRIU restores begins with segments of 536 bytes, and the kernel recomputes their size
//! only when the path's MTU is no longer what it was when the connection was made (tcp_current_mss in the
//! kernel's net/ipv4/tcp_output.c). So the interfaces have another MTU while processes are restored.

use std::path::Path;

use crate::net::kernel::netns::{self, EnterError};
use crate::net::kernel::routes::{RouteError, Routes};

/// MTUs up to this are raised, higher ones lowered: not every interface accepts more than the largest IP
/// packet.
const HIGHEST: u32 = 60_000;

/// An MTU could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum SegmentsError {
    /// The namespace is gone, or may not be entered.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// The kernel refused.
    #[error(transparent)]
    Routes(#[from] RouteError),
}

/// The interfaces of a namespace with their own MTUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mtus(Vec<(u32, u32)>);

/// Changes the MTUs of the interfaces in the namespace at `netns`. Undone by [`put_back`], and by the
/// namespace's end.
pub fn set_apart(netns: &Path) -> Result<Mtus, SegmentsError> {
    netns::in_netns(netns, || {
        let routes = Routes::open()?;
        let mut mtus = routes.mtus()?;
        mtus.retain(|(interface, mtu)| {
            // Lower could be less than IPv6 needs, which would take its addresses away.
            let apart = if *mtu > HIGHEST { mtu - 1 } else { mtu + 1 };
            // If this fails the interface's connections are slower, but none breaks.
            routes
                .set_mtu(*interface, apart)
                .inspect_err(|error| tracing::warn!("{error}"))
                .is_ok()
        });
        Ok(Mtus(mtus))
    })?
}

/// Restores their own MTUs. Whatever the connections send from now on has the right size.
pub fn put_back(netns: &Path, mtus: &Mtus) -> Result<(), SegmentsError> {
    netns::in_netns(netns, || {
        let routes = Routes::open()?;
        for (interface, mtu) in &mtus.0 {
            routes.set_mtu(*interface, *mtu)?;
        }
        Ok(())
    })?
}
