//! Preflight for people.

use common::preflight::{Check, Side, Verdict};

/// Prints one line per check on stdout.
pub(crate) fn print(checks: &[Check]) {
    for (side, title) in [(Side::Source, "source"), (Side::Destination, "destination")] {
        println!("{title}:");
        for check in checks.iter().filter(|c| c.host == side) {
            let sign = match check.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warning => "warn",
                Verdict::Failed => "FAIL",
            };
            println!("  {sign}  {:<18} {}", check.name, check.detail);
        }
    }
}
