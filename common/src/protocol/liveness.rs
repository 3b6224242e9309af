//! Notices a peer that vanishes without a word (power, network).

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// How long either end may be silent before the connection counts as lost.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// Has the kernel probe an idle connection, and give up on one whose data is not acknowledged
/// (tcp(7): `TCP_KEEPIDLE`, `TCP_USER_TIMEOUT`). Reading and writing then fail.
pub fn watch(socket: &impl AsFd) -> nix::Result<()> {
    let third = (SILENCE_LIMIT.as_secs() / 3) as u32;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &third)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &third)?;
    setsockopt(socket, sockopt::TcpKeepCount, &2)?;
    let silence_ms = SILENCE_LIMIT.as_millis() as u32;
    setsockopt(socket, sockopt::TcpUserTimeout, &silence_ms)
}
