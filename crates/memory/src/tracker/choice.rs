//! Which tracker a process gets.

use super::doubts::{self, Doubt};
use super::hashes::Hashes;
use super::pass::Tracker;
use super::protection::Protection;
use super::userfault;
use crate::pagemap;
use crate::process::Process;

/// What this kernel can do for trackers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// `PAGEMAP_SCAN`, since 6.7.
    pub scan: bool,
    /// Write protection that needs nobody to answer: `UFFD_FEATURE_WP_ASYNC`, since 6.7.
    pub protection: bool,
}

impl Abilities {
    /// Those of the kernel that this runs on.
    pub fn of_this_kernel() -> Abilities {
        let scan = pagemap::can_scan();
        Abilities {
            scan,
            protection: scan && cfg!(target_arch = "x86_64") && userfault::is_here(),
        }
    }
}

/// The best tracker for a process, and if it is not the quick one, why.
///
/// Effect: may stop a thread of the process for less than a millisecond.
pub(crate) fn choose(process: &Process, abilities: Abilities) -> (Box<dyn Tracker>, Option<Doubt>) {
    match protection(process, abilities) {
        Ok(protection) => (Box::new(protection), None),
        Err(doubt) => (hashes(abilities), Some(doubt)),
    }
}

/// The tracker that is always right.
pub(crate) fn hashes(abilities: Abilities) -> Box<dyn Tracker> {
    Box::new(Hashes::new(abilities.scan))
}

fn protection(process: &Process, abilities: Abilities) -> Result<Protection, Doubt> {
    if !abilities.protection {
        return Err(Doubt::Kernel);
    }
    // Before the process is touched.
    doubts::about(process)?;
    Protection::begin(process)
}
