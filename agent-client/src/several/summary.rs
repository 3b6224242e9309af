//! What became of several containers.

use common::protocol::ContainerRef;
use common::report::{Outcome, Report};
use serde::Serialize;

/// Version of the format. Documented in docs/report.md.
const VERSION: u32 = 1;

/// What `--format json` prints for several containers.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    version: u32,
    /// Name of this host.
    source: String,
    /// In the order of the plan.
    containers: Vec<Line>,
}

/// One container.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) container: ContainerRef,
    /// Where it goes; absent if it cannot.
    pub(super) destination: Option<String>,
    /// How long it was to be frozen.
    pub(super) estimated_freeze_ms: Option<u64>,
    pub(super) outcome: LineOutcome,
    /// Why it stays.
    pub(super) error: Option<String>,
    /// Of its migration, if one was begun.
    pub(super) report: Option<Report>,
}

/// As of one migration, and two more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LineOutcome {
    /// The container runs at the destination.
    Moved,
    /// It failed, or was cancelled; the container runs here.
    Failed,
    /// It cannot move; nothing was changed.
    Refused,
    /// `--dry-run`: it could move.
    Possible,
    /// An operator must look.
    Unknown,
    /// Not its turn before the end, because another one failed or nobody confirmed.
    NotBegun,
}

impl From<Outcome> for LineOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Moved => LineOutcome::Moved,
            Outcome::Failed => LineOutcome::Failed,
            Outcome::Refused => LineOutcome::Refused,
            Outcome::Possible => LineOutcome::Possible,
            Outcome::Unknown => LineOutcome::Unknown,
        }
    }
}

impl Line {
    /// Whether others should not begin after it.
    pub(super) fn is_bad(&self) -> bool {
        !matches!(self.outcome, LineOutcome::Moved | LineOutcome::Possible)
    }

    /// It was tried.
    pub(super) fn tried(&mut self, report: Report) {
        self.outcome = report.outcome.into();
        self.error.clone_from(&report.error);
        self.report = Some(report);
    }
}

impl Summary {
    pub(super) fn of(source: String, containers: Vec<Line>) -> Self {
        Summary {
            version: VERSION,
            source,
            containers,
        }
    }

    /// The worst that happened to any of them decides: an operator must look, one failed or was not begun, one cannot
    /// move.
    pub(super) fn exit_status(&self) -> u8 {
        let any = |outcome| self.containers.iter().any(|line| line.outcome == outcome);
        let worst = [
            (LineOutcome::Unknown, Outcome::Unknown),
            (LineOutcome::Failed, Outcome::Failed),
            (LineOutcome::Refused, Outcome::Refused),
            (LineOutcome::NotBegun, Outcome::Failed),
        ];
        let found = worst.into_iter().find(|(outcome, _)| any(*outcome));
        let (_, outcome) = found.unwrap_or((LineOutcome::Moved, Outcome::Moved));
        outcome.exit_status()
    }

    /// The last line for people: how many moved, and which did not.
    pub(super) fn sentence(&self) -> String {
        let named = |outcome| -> Vec<&str> {
            let lines = self.containers.iter();
            let lines = lines.filter(|line| line.outcome == outcome);
            lines.map(|line| line.container.name.as_str()).collect()
        };
        let moved = named(LineOutcome::Moved).len();
        let mut parts = vec![format!("{moved} of {} moved", self.containers.len())];
        for (outcome, what) in [
            (LineOutcome::Failed, "failed, running here"),
            (LineOutcome::Unknown, "an operator must look"),
            (LineOutcome::Refused, "cannot move"),
            (LineOutcome::NotBegun, "not begun"),
        ] {
            let names = named(outcome);
            if !names.is_empty() {
                parts.push(format!("{what}: {}", names.join(", ")));
            }
        }
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(outcomes: &[LineOutcome]) -> Summary {
        let line = |(number, outcome): (usize, &LineOutcome)| Line {
            container: ContainerRef {
                id: format!("{number:064x}"),
                name: format!("c{number}"),
            },
            destination: None,
            estimated_freeze_ms: None,
            outcome: *outcome,
            error: None,
            report: None,
        };
        let lines = outcomes.iter().enumerate().map(line).collect();
        Summary::of("a".into(), lines)
    }

    #[test]
    fn the_worst_decides() {
        use LineOutcome::{Failed, Moved, NotBegun, Possible, Refused, Unknown};
        for (outcomes, status) in [
            (&[Moved, Moved][..], 0),
            (&[Possible], 0),
            (&[Moved, Refused], 4),
            (&[NotBegun, Refused], 4),
            (&[Moved, NotBegun], 1),
            (&[Moved, Failed, Refused, NotBegun], 1),
            (&[Failed, Unknown], 3),
            (&[], 0),
        ] {
            assert_eq!(summary(outcomes).exit_status(), status, "{outcomes:?}");
        }
    }

    #[test]
    fn the_sentence_names_those_that_stay() {
        use LineOutcome::{Failed, Moved, NotBegun, Refused};
        assert_eq!(
            summary(&[Moved, Refused, Failed, NotBegun, NotBegun]).sentence(),
            "1 of 5 moved; failed, running here: c2; cannot move: c1; not begun: c3, c4"
        );
        assert_eq!(summary(&[Moved]).sentence(), "1 of 1 moved");
    }
}
