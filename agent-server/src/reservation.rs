//! Makes sure that no container comes here twice at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use common::protocol::MigrationId;

/// Reserved containers, by id, with the migration each is reserved for; `None` if its fate can no
/// longer change.
#[derive(Clone, Default)]
pub(crate) struct Reserved(Arc<Mutex<HashMap<String, Option<MigrationId>>>>);

impl Reserved {
    /// Reserves a container for `migration`, unless it is reserved already, or another one is for a migration
    /// of the same id.
    pub(crate) fn reserve(&self, id: &str, migration: &MigrationId) -> Option<Reservation> {
        let mut reserved = self.0.lock().expect("no panic while locked");
        let same = reserved.values().flatten().any(|other| other == migration);
        if same || reserved.contains_key(id) {
            return None;
        }
        reserved.insert(id.to_owned(), Some(migration.clone()));
        Some(Reservation {
            id: id.to_owned(),
            reserved: self.clone(),
        })
    }

    /// How many migrations there are whose fate is open.
    pub(crate) fn under_way(&self) -> usize {
        let reserved = self.0.lock().expect("no panic while locked");
        reserved.values().flatten().count()
    }

    /// Whether a session can still change what becomes of `migration`.
    pub(crate) fn at_work(&self, migration: &MigrationId) -> bool {
        let reserved = self.0.lock().expect("no panic while locked");
        reserved.values().flatten().any(|other| other == migration)
    }
}

/// A container's reservation; dropping it frees the container.
pub(crate) struct Reservation {
    id: String,
    reserved: Reserved,
}

impl Reservation {
    /// The migration's fate is decided, though its session goes on.
    pub(crate) fn decided(&self) {
        self.reserved
            .0
            .lock()
            .expect("no panic while locked")
            .insert(self.id.clone(), None);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reserved
            .0
            .lock()
            .expect("no panic while locked")
            .remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_container_nor_a_migration_is_reserved_twice() {
        let (reserved, one, two) = (
            Reserved::default(),
            MigrationId::random(),
            MigrationId::random(),
        );
        let held = reserved.reserve("a", &one).unwrap();
        assert!(reserved.reserve("a", &two).is_none());
        assert!(reserved.reserve("b", &one).is_none());
        assert!(reserved.reserve("b", &two).is_some());
        assert_eq!(reserved.under_way(), 1);
        held.decided();
        assert_eq!(reserved.under_way(), 0);
        assert!(!reserved.at_work(&one));
        drop(held);
        assert!(reserved.reserve("a", &two).is_some());
    }
}
