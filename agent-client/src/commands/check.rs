//! `check`: preflight, for people.

use common::preflight::{self, Check, Side, Verdict};
use common::report::Outcome;

use crate::address::Address;
use crate::choices::Choices;
use crate::format::Format;
use crate::migrate;

pub(super) async fn check(
    container: &str,
    to: &Address,
    choices: &Choices,
    format: Format,
) -> anyhow::Result<u8> {
    let checks = migrate::check(container, to, choices).await?;
    let passed = preflight::passed(&checks);
    match format {
        Format::Text => print(&checks),
        Format::Json => println!(
            "{}",
            serde_json::json!({ "passed": passed, "checks": checks })
        ),
    }
    Ok(if passed {
        0
    } else {
        Outcome::Refused.exit_status()
    })
}

/// Prints one line per check on stdout.
fn print(checks: &[Check]) {
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
