//! Whether there is enough disk space for what a migration writes.

use std::collections::BTreeMap;

use super::Checks;
use crate::host::Room;
use crate::units;

/// Space for records, logs and other small files.
const MARGIN: u64 = 64 << 20;

/// Something that will be written, and where.
pub(super) struct Wanted<'a> {
    /// What it is, in a few words.
    pub(super) what: &'a str,
    /// Bytes.
    pub(super) bytes: u64,
    /// The file system that it is written to.
    pub(super) room: &'a Room,
}

/// Adds up what goes to the same file system.
pub(super) fn room(checks: &mut Checks, wanted: &[Wanted<'_>]) {
    let mut disks: BTreeMap<u64, Vec<&Wanted>> = BTreeMap::new();
    for each in wanted {
        disks.entry(each.room.device).or_default().push(each);
    }
    for on_it in disks.into_values() {
        // The source can claim any number.
        let bytes = on_it.iter().map(|each| each.bytes);
        let needed = bytes.fold(MARGIN, u64::saturating_add);
        // They differ by what was written between the measurements.
        let free = on_it.iter().map(|each| each.room.free_bytes).min();
        let free = free.unwrap_or_default();
        let places: Vec<String> = on_it
            .iter()
            .map(|each| format!("{} in {}", each.what, each.room.path))
            .collect();
        checks.expect(
            "disk space",
            free >= needed,
            format!(
                "{} free, about {} needed ({})",
                units::bytes(free),
                units::bytes(needed),
                places.join(", ")
            ),
            "free some space there",
        );
    }
}
