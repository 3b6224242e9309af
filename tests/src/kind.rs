//! What kind of hosts a [`Fixture`](crate::Fixture) has.

use std::sync::OnceLock;
use std::time::Duration;

use lab::Kind;

/// `disk`: hosts that run containers have disks that lose what was not synced when power is cut. `vm`: they are
/// virtual machines. The name of a distribution, such as `trixie`:
/// they are virtual machines with its defaults. Unset: all hosts are namespaces.
const VARIABLE: &str = "LAB_KIND";

/// How many times longer than elsewhere everything may take in an emulated processor.
const SLOWER: u32 = 8;

/// The kind of the hosts that run containers. Clients' hosts are always namespaces: nothing about
/// them depends on the kernel.
///
/// # Panics
/// If the environment asks for something else.
pub fn kind() -> Kind {
    static KIND: OnceLock<Kind> = OnceLock::new();
    *KIND.get_or_init(|| match std::env::var(VARIABLE).as_deref() {
        Err(_) | Ok("") => Kind::Namespaces,
        Ok("disk") => Kind::Disk,
        Ok("vm") => Kind::Machine,
        Ok(name) => match name.parse() {
            Ok(distribution) => Kind::Systemd(distribution),
            Err(e) => panic!("{VARIABLE}={name}: neither `disk` nor `vm` nor a distribution: {e}"),
        },
    })
}

/// Scales a limit that is meant for namespace hosts to the kind in use.
pub(crate) fn patience(limit: Duration) -> Duration {
    match kind() {
        Kind::Namespaces | Kind::Disk | Kind::Services => limit,
        Kind::Machine | Kind::Systemd(_) => limit * SLOWER,
    }
}
