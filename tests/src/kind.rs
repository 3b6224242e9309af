//! What kind of hosts a [`Fixture`](crate::Fixture) has.

use std::sync::OnceLock;
use std::time::Duration;

use lab::Kind;

/// `vm`: hosts that run containers are virtual machines. The name of a distribution, such as `trixie`:
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
        Ok("vm") => Kind::Machine,
        Ok(name) => match name.parse() {
            Ok(distribution) => Kind::Systemd(distribution),
            Err(e) => panic!("{VARIABLE}={name}: neither `vm` nor a distribution: {e}"),
        },
    })
}

/// Scales a limit that is meant for namespace hosts to the kind in use.
pub(crate) fn patience(limit: Duration) -> Duration {
    match kind() {
        Kind::Namespaces | Kind::Services => limit,
        Kind::Machine | Kind::Systemd(_) => limit * SLOWER,
    }
}
