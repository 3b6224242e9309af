//! Past migrations in words.

use std::fmt::{self, Display, Write};

use common::journal::{MigrationRecord, Progress, Role};
use common::report::Report;
use common::{status, units};

use super::{Past, outage};

/// Characters for the whole migration.
const BAR: u64 = 40;

/// A migration in a line, without its end.
pub(crate) fn line(past: &Past) -> String {
    let mut line = status::line(&past.record);
    if let Some(report) = past.report.as_ref().filter(|report| report.freeze_ms > 0) {
        line += &format!("  frozen {} ms", report.freeze_ms);
    }
    // The rest of it is shown with the migration itself.
    let error = past.record.error.as_deref();
    if let Some(first) = error.and_then(|error| error.lines().next()) {
        line += &format!(": {first}");
    }
    line
}

/// All that is known about a migration: its phases, and what its outage was made of.
pub(crate) struct Timeline<'a>(pub(crate) &'a Past);

impl Display for Timeline<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Past {
            record,
            report,
            unread,
        } = self.0;
        writeln!(out, "{}", status::line(record))?;
        match (report, unread) {
            (Some(report), _) => told(out, report)?,
            (None, Some(error)) => writeln!(out, "its report cannot be read: {error}")?,
            (None, None) => writeln!(out, "{}", why_none(record))?,
        }
        match &record.error {
            Some(error) => writeln!(out, "error: {error}"),
            None => Ok(()),
        }
    }
}

/// Why there is no report.
fn why_none(record: &MigrationRecord) -> String {
    match (record.direction, record.progress) {
        (Role::Incoming, _) => format!(
            "where it came from there may be more: `agent-client history {}`",
            record.migration
        ),
        (Role::Outgoing, Progress::UnderWay | Progress::Committing) => {
            "it is not over, so there is no report yet".to_owned()
        }
        (Role::Outgoing, _) => {
            "there is no report: agent-client ended before it could write one, or did not keep any then".to_owned()
        }
    }
}

fn told(out: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    let ends = report.phases.iter().map(|p| p.start_ms + p.duration_ms);
    let whole = ends.max().unwrap_or_default().max(1);
    for phase in &report.phases {
        let from = (phase.start_ms * BAR / whole).min(BAR - 1) as usize;
        let length = (phase.duration_ms * BAR).div_ceil(whole).max(1) as usize;
        let length = length.min(BAR as usize - from);
        let mut line = format!(
            "  {:<22} {:>9} {:>9}  {:>9}  {:from$}{:=<length$}",
            phase.name.describe(),
            format!("+{}", units::milliseconds(phase.start_ms)),
            units::milliseconds(phase.duration_ms),
            match phase.bytes {
                0 => String::new(),
                bytes => units::bytes(bytes),
            },
            "",
            "",
        );
        line.truncate(line.trim_end().len());
        writeln!(out, "{line}")?;
    }
    if report.freeze_ms > 0 {
        outage_of(out, report)?;
    }
    writeln!(
        out,
        "sent: {}; {} TCP and {} UDP flows moved",
        units::bytes(report.sent_bytes),
        report.flows.tcp,
        report.flows.udp
    )?;
    if let Some(memory) = &report.memory {
        writeln!(
            out,
            "memory: {} ahead of the outage in {} rounds, {} in it",
            units::bytes(memory.ahead_bytes),
            memory.rounds,
            units::bytes(memory.outage_bytes)
        )?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    for warning in &report.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(())
}

/// What the outage was made of.
fn outage_of(out: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    let Report {
        freeze_ms,
        estimated_freeze_ms,
        ..
    } = report;
    write!(out, "outage: {}", units::milliseconds(*freeze_ms))?;
    match estimated_freeze_ms {
        0 => out.write_char('\n')?,
        ms => writeln!(out, " (estimated: {})", units::milliseconds(*ms))?,
    }
    let parts = outage(report).map(|phase| (phase.name.describe(), phase.duration_ms));
    let parts: Vec<_> = parts.collect();
    let known: u64 = parts.iter().map(|(_, ms)| ms).sum();
    let rest = ("in between", freeze_ms.saturating_sub(known));
    for (name, ms) in parts.into_iter().chain([rest]).filter(|(_, ms)| *ms > 0) {
        writeln!(
            out,
            "  {name:<22} {:>9} {:>7} %",
            units::milliseconds(ms),
            ms * 100 / freeze_ms
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::{past, record};

    #[test]
    fn a_line_says_how_long_it_was_frozen_and_why_it_failed() {
        assert_eq!(
            line(&past()),
            "1970-01-01 00:00:00  1e4a41a7aed1b906  web to b:50051  moved  frozen 250 ms"
        );
        let mut failed = record("1e4a41a7aed1b906", Role::Incoming);
        failed.progress = Progress::RolledBack;
        failed.error = Some("no room\nand more".into());
        let failed = Past {
            record: failed,
            report: None,
            unread: None,
        };
        let said = "1970-01-01 00:00:00  1e4a41a7aed1b906  web from b:50051  rolled back: no room";
        assert_eq!(line(&failed), said);
        let whole = Timeline(&failed).to_string();
        assert!(whole.contains("where it came from"), "{whole}");
        assert!(whole.ends_with("error: no room\nand more\n"), "{whole}");
    }

    #[test]
    fn a_timeline_says_where_the_time_went() {
        let expected = "\
1970-01-01 00:00:00  1e4a41a7aed1b906  web to b:50051  moved
  connect                    +0 ms    400 ms             ========
  send image               +400 ms    1.00 s    2.0 KiB          ====================
  freeze                   +1.40 s     50 ms                                         =
  dump memory              +1.45 s    150 ms    1.0 KiB                               ===
  cut over                 +1.60 s     25 ms                                             =
  remove old container     +1.63 s    370 ms                                             ========
outage: 250 ms (estimated: 300 ms)
  freeze                     50 ms      20 %
  dump memory               150 ms      60 %
  cut over                   25 ms      10 %
  in between                 25 ms      10 %
sent: 3.0 KiB; 2 TCP and 1 UDP flows moved
note: one
warning: two\u{1b}
";
        assert_eq!(Timeline(&past()).to_string(), expected);
    }
}
