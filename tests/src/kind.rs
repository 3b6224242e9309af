//! What the hosts of a [`Fixture`](crate::Fixture) are made of.

use std::sync::OnceLock;
use std::time::Duration;

use lab::Kind;

/// `vm`: hosts that containers run on are virtual machines. The name of a distribution, such as `trixie`:
/// they are virtual machines with its defaults. Unset: all are namespaces.
const VARIABLE: &str = "LAB_KIND";

/// How much longer than elsewhere anything may take in an emulated processor.
const SLOWER: u32 = 8;

/// What hosts that containers run on are made of. Clients' hosts are always namespaces: they show
/// nothing that depends on the kernel.
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

/// A limit for hosts that are namespaces, made one for those that there are.
pub(crate) fn patience(limit: Duration) -> Duration {
    match kind() {
        Kind::Namespaces | Kind::Services => limit,
        Kind::Machine | Kind::Systemd(_) => limit * SLOWER,
    }
}
