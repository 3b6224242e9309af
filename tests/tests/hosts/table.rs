//! The results, as tables.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::Verdict;

/// All of them, in Markdown. Each of `versions` is a line of a table.
pub(crate) fn tables(versions: &BTreeMap<String, String>, verdicts: &[Verdict]) -> String {
    let mut text = String::from(
        "| host | Podman | runtime | its version | CRIU | kernel | systemd |\n|---|---|---|---|---|---|---|\n",
    );
    for (host, versions) in versions {
        let _ = writeln!(text, "| {host} |{versions}");
    }
    text += "\n| hosts | what was done | outcome | frozen, ms | what the client saw |\n|---|---|---|---|---|\n";
    for verdict in verdicts {
        let _ = writeln!(text, "{}", line(verdict));
    }
    let failed = verdicts
        .iter()
        .filter(|verdict| verdict.seen.is_err())
        .count();
    let _ = writeln!(text, "\n{} cases, {failed} failed.", verdicts.len());
    text
}

/// One of the results.
pub(crate) fn line(verdict: &Verdict) -> String {
    let frozen: Vec<String> = verdict.frozen.iter().map(u64::to_string).collect();
    let (outcome, seen) = match &verdict.seen {
        Ok(seen) => ("moved", seen.clone()),
        Err(why) => ("**failed**", cell(why)),
    };
    let ([from, to], name) = (verdict.hosts, verdict.name);
    let frozen = frozen.join(", ");
    format!("| {from} to {to} | {name} | {outcome} | {frozen} | {seen} |")
}

/// The beginning of a text, for a cell of a table.
fn cell(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let text: String = words
        .join(" ")
        .replace('|', "\\|")
        .chars()
        .take(300)
        .collect();
    text
}
