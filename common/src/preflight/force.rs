//! Checks that the user may overrule.

use super::{Check, Verdict};
use crate::container::ContainerFacts;

/// Names of the checks that are judgements: what they find may not matter to this container. The others are facts, with
/// which nothing can be moved, or they protect what is at the destination.
pub const JUDGEMENTS: [&str; 4] = [
    "network set up",
    "CPU features",
    "criu's images",
    "firewalls",
];

/// Makes warnings of those failed `checks` that the user overrules.
pub(super) fn overrule(container: &ContainerFacts, checks: &mut [Check]) {
    for check in checks {
        let judgement = JUDGEMENTS.contains(&check.name.as_str());
        let forced = judgement && container.forced.contains(&check.name);
        if forced && check.verdict == Verdict::Failed {
            check.verdict = Verdict::Warning;
            check.detail.insert_str(0, "overruled: ");
        }
    }
}
