//! Makes sure that no container comes here twice at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use common::protocol::MigrationId;

/// Reserved containers, by id, with the migration each is reserved for; `None` if its fate can no
/// longer change.
#[derive(Clone, Default)]
pub(crate) struct Reserved(Arc<Mutex<HashMap<String, Option<MigrationId>>>>);

impl Reserved {
    /// Reserves a container for `migration`, unless it is reserved already.
    pub(crate) fn reserve(&self, id: &str, migration: &MigrationId) -> Option<Reservation> {
        let mut reserved = self.0.lock().expect("no panic while locked");
        if reserved.contains_key(id) {
            return None;
        }
        reserved.insert(id.to_owned(), Some(migration.clone()));
        Some(Reservation {
            id: id.to_owned(),
            reserved: self.clone(),
        })
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
