//! Where the container's output goes.

use super::{Checks, Verdict};
use crate::container::ContainerFacts;

/// Whether logging continues at the destination, and what happens to existing output.
pub(super) fn log(checks: &mut Checks, container: &ContainerFacts) {
    let log = &container.log;
    let (verdict, detail) = match (log.driver.as_str(), &log.path) {
        ("journald", _) => (
            Verdict::Warning,
            format!(
                "journald: the container's output so far stays in the source's journal, where \
                 `journalctl CONTAINER_ID_FULL={}` shows it; at the destination `podman logs` begins with \
                 the move",
                container.id
            ),
        ),
        ("passthrough" | "passthrough-tty", _) => (
            Verdict::Failed,
            format!(
                "{}: the container's output goes straight to the program that started it, which stays here: \
                 create it with another --log-driver",
                log.driver
            ),
        ),
        (_, Some(path)) => (
            Verdict::Failed,
            format!(
                "goes to {path}, which is not the container's own: create it without --log-opt path=, or \
                 with --log-driver journald"
            ),
        ),
        (driver, None) => (Verdict::Ok, driver.to_owned()),
    };
    checks.add("log", verdict, detail);
}
