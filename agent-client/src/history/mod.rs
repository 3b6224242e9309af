//! What has moved from and to this host: from the records of both agents, and the reports of this one.

pub(crate) mod picture;
pub(crate) mod text;

use common::journal::{FindError, Journal, MigrationRecord, Role, Unreadable};
use common::report::{Phase, PhaseName, Report};
use serde::Serialize;

/// A migration on record.
#[derive(Debug, Serialize)]
pub(crate) struct Past {
    #[serde(flatten)]
    record: MigrationRecord,
    /// Of one from this host that has ended.
    report: Option<Report>,
    /// Why there is one that cannot be read.
    #[serde(skip)]
    unread: Option<String>,
}

impl Past {
    fn of(record: MigrationRecord) -> Self {
        let report = match record.direction {
            Role::Outgoing => Journal::of(CLIENT).report(&record.migration),
            Role::Incoming => Ok(None),
        };
        match report {
            Ok(report) => Past {
                record,
                report,
                unread: None,
            },
            Err(error) => Past {
                record,
                report: None,
                unread: Some(error.to_string()),
            },
        }
    }
}

const CLIENT: &str = "client";
const SERVER: &str = "server";

/// All migrations on record, newest last, and the records that cannot be read.
///
/// # Errors
/// If a directory of records cannot be read.
pub(crate) fn all() -> anyhow::Result<(Vec<Past>, Vec<Unreadable>)> {
    let mut records = Journal::of(CLIENT).list()?;
    let others = Journal::of(SERVER).list()?;
    records.readable.extend(others.readable);
    records.unreadable.extend(others.unreadable);
    records.readable.sort_by_key(|record| record.started);
    let past = records.readable.into_iter().map(Past::of).collect();
    Ok((past, records.unreadable))
}

/// The migration whose id starts with `prefix`.
///
/// # Errors
/// If there is none, or more than one.
pub(crate) fn one(prefix: &str) -> Result<Past, FindError> {
    let found = [CLIENT, SERVER].map(|agent| Journal::of(agent).find(prefix));
    only(prefix, found).map(Past::of)
}

/// What was found in two places, if it is one.
fn only(
    prefix: &str,
    found: [Result<MigrationRecord, FindError>; 2],
) -> Result<MigrationRecord, FindError> {
    match found {
        [Ok(one), Ok(other)] => Err(FindError::Several {
            prefix: prefix.to_owned(),
            fits: vec![one.migration, other.migration],
        }),
        [Ok(record), Err(FindError::None(_))] | [Err(FindError::None(_)), Ok(record)] => Ok(record),
        [Err(FindError::None(_)), error @ Err(_)] => error,
        [error @ Err(_), _] | [_, error @ Err(_)] => error,
    }
}

/// The phases that the outage was made of: those from the freeze on, up to the commit or the failure.
fn outage(report: &Report) -> impl Iterator<Item = &Phase> {
    let phases = report.phases.iter();
    let from_it = phases.skip_while(|phase| phase.name != PhaseName::Freeze);
    from_it.take_while(|phase| !matches!(phase.name, PhaseName::Remove | PhaseName::RollBack))
}

#[cfg(test)]
mod tests {
    use common::journal::Progress;
    use common::protocol::MigrationId;
    use time::OffsetDateTime;

    use super::*;

    /// One that has moved with a report, of a quarter of a second in the outage.
    pub(super) fn past() -> Past {
        let text = r#"{
            "version": 2, "migration_id": "1e4a41a7aed1b906", "container": null,
            "source": "a", "destination": "b:50051", "outcome": "moved",
            "phases": [
                {"name": "connect", "start_ms": 0, "duration_ms": 400, "bytes": 0},
                {"name": "image", "start_ms": 400, "duration_ms": 1000, "bytes": 2048},
                {"name": "freeze", "start_ms": 1400, "duration_ms": 50, "bytes": 0},
                {"name": "dump", "start_ms": 1450, "duration_ms": 150, "bytes": 1024},
                {"name": "cut_over", "start_ms": 1600, "duration_ms": 25, "bytes": 0},
                {"name": "remove", "start_ms": 1630, "duration_ms": 370, "bytes": 0}
            ],
            "freeze_ms": 250, "estimated_freeze_ms": 300, "sent_bytes": 3072,
            "flows": {"tcp": 2, "udp": 1}, "bypassed": 0, "forwarded_ports": [], "tunnel": null,
            "memory": null, "packets": "held", "notes": ["one"], "warnings": ["two\u001b"], "error": null
        }"#;
        Past {
            record: record("1e4a41a7aed1b906", Role::Outgoing),
            report: Some(serde_json::from_str(text).unwrap()),
            unread: None,
        }
    }

    pub(super) fn record(id: &str, direction: Role) -> MigrationRecord {
        MigrationRecord {
            migration: id.parse().unwrap(),
            container: common::protocol::ContainerRef {
                id: "c".into(),
                name: "web".into(),
            },
            peer: "b:50051".into(),
            owner: None,
            direction,
            progress: Progress::Committed,
            started: OffsetDateTime::UNIX_EPOCH,
            error: None,
            boot: None,
        }
    }

    #[test]
    fn an_id_is_looked_for_in_both_places() {
        let ours = || Ok(record("00aa000000000000", Role::Outgoing));
        let theirs = || Ok(record("00ab000000000000", Role::Incoming));
        let none = || Err(FindError::None("00a".into()));
        let several = || {
            Err(FindError::Several {
                prefix: "00a".into(),
                fits: vec![MigrationId::random()],
            })
        };
        assert_eq!(only("00a", [ours(), none()]).unwrap(), ours().unwrap());
        assert_eq!(only("00a", [none(), theirs()]).unwrap(), theirs().unwrap());
        for found in [[ours(), theirs()], [ours(), several()], [none(), several()]] {
            let error = only("00a", found).unwrap_err();
            assert!(matches!(error, FindError::Several { .. }), "{error}");
        }
        let error = only("00a", [none(), none()]).unwrap_err();
        assert!(matches!(error, FindError::None(_)), "{error}");
    }

    #[test]
    fn the_outage_ends_with_the_commit() {
        let report = past().report.unwrap();
        let names: Vec<_> = outage(&report).map(|phase| phase.name).collect();
        let expected = [PhaseName::Freeze, PhaseName::Dump, PhaseName::CutOver];
        assert_eq!(names, expected);
    }
}
