//! The results, as a table.

use std::fmt::Write;
use std::time::Duration;

use crate::case::Case;
use crate::run::Row;
use crate::{Verdict, minutes};

/// A case on a line.
pub(crate) fn line(case: &Case, row: &Result<Row, String>) -> String {
    match row {
        Ok(row) => format!(
            "ok      {:<45} {}; at the {}, stall {:.0} ms, {:.1} s",
            row.name,
            row.outcome,
            row.holder,
            row.stall_ms,
            row.took.as_secs_f64()
        ),
        Err(why) => format!("FAILED  {}: {why}", case.name),
    }
}

/// All of them, in Markdown.
pub(crate) fn table(verdicts: &[Verdict], took: Duration) -> String {
    let mut text = String::from(
        "| case | what was done | outcome | runs at | client's stall, ms | |\n\
         |---|---|---|---|---|---|\n",
    );
    for (case, row) in verdicts {
        let _ = match row {
            Ok(row) => writeln!(
                text,
                "| {} | {} | {} | {} | {:.0} | ok |",
                row.name, row.what, row.outcome, row.holder, row.stall_ms
            ),
            Err(_) => writeln!(text, "| {} | {} | | | | FAILED |", case.name, case.what),
        };
    }
    let failed = verdicts.iter().filter(|(_, row)| row.is_err()).count();
    let _ = writeln!(
        text,
        "\n{} cases, {failed} failed, {}.",
        verdicts.len(),
        minutes(took)
    );
    text
}
