//! The results, as a table.

use std::fmt::Write;

use crate::Verdict;
use crate::case::Case;

/// A case on a line.
pub(crate) fn line(case: &Case, seen: &Result<String, String>) -> String {
    match seen {
        Ok(seen) => format!("ok      {:<40} {seen}", case.name),
        Err(why) => format!("FAILED  {}: {why}", case.name),
    }
}

/// All of them, in Markdown.
pub(crate) fn table(verdicts: &[Verdict]) -> String {
    let mut text = String::from(
        "| power cut at, and when | what had happened | afterwards | |\n|---|---|---|---|\n",
    );
    for (case, seen) in verdicts {
        let (seen, verdict) = match seen {
            Ok(seen) => (seen.as_str(), "ok"),
            Err(_) => ("", "FAILED"),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {seen} | {verdict} |",
            case.name, case.what
        );
    }
    let failed = verdicts.iter().filter(|(_, seen)| seen.is_err()).count();
    let _ = writeln!(text, "\n{} cases, {failed} failed.", verdicts.len());
    text
}
