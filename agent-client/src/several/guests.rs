//! Which containers of this host came from another one.

use std::collections::HashMap;

use common::journal::{MigrationRecord, Role};

/// Ids of containers whose first migration on record brought them here. Those whose first one took them away are at
/// home, wherever they have been since.
pub(super) fn guests(records: &[MigrationRecord]) -> Vec<String> {
    let mut first: HashMap<&str, &MigrationRecord> = HashMap::new();
    for record in records.iter().filter(|r| r.progress.committed()) {
        first
            .entry(&record.container.id)
            .and_modify(|known| {
                if record.started < known.started {
                    *known = record;
                }
            })
            .or_insert(record);
    }
    let came = first
        .into_values()
        .filter(|r| r.direction == Role::Incoming);
    came.map(|record| record.container.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use common::journal::Progress;
    use common::protocol::{ContainerRef, MigrationId};
    use time::OffsetDateTime;

    use super::*;

    fn record(id: &str, second: i64, direction: Role, progress: Progress) -> MigrationRecord {
        MigrationRecord {
            migration: MigrationId::random(),
            container: ContainerRef {
                id: id.to_owned(),
                name: id.to_owned(),
            },
            peer: "b".into(),
            owner: None,
            direction,
            progress,
            started: OffsetDateTime::from_unix_timestamp(second).expect("a time"),
            error: None,
            boot: None,
        }
    }

    #[test]
    fn the_first_migration_tells_where_it_is_at_home() {
        use Progress::{Committed, OnDisk, RolledBack};
        let records = [
            record("came", 9, Role::Incoming, OnDisk),
            record("came", 5, Role::Outgoing, Committed),
            record("came", 3, Role::Incoming, Committed),
            record("came", 1, Role::Outgoing, RolledBack),
            record("returned", 8, Role::Incoming, OnDisk),
            record("returned", 2, Role::Outgoing, Committed),
            record("almost", 4, Role::Incoming, RolledBack),
        ];
        assert_eq!(guests(&records), ["came"]);
    }
}
