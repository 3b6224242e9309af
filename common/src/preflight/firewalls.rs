//! Other programs' firewalls.

use super::force::overrule;
use super::{Check, Checks, Side, Verdict};
use crate::container::ContainerFacts;
use crate::net::foreign_firewalls::Obstacle;

/// Whether other programs' firewalls on one of the hosts let moved connections pass, given the
/// obstacles found there.
pub fn firewalls(host: Side, container: &ContainerFacts, obstacles: &[Obstacle]) -> Vec<Check> {
    let mut checks = Checks {
        host,
        found: Vec::new(),
    };
    for obstacle in obstacles {
        let verdict = match obstacle.certain {
            true => Verdict::Failed,
            false => Verdict::Warning,
        };
        let detail = format!("{}: {}", obstacle.found, obstacle.advice);
        checks.add("firewalls", verdict, detail);
    }
    if obstacles.is_empty() {
        checks.add("firewalls", Verdict::Ok, "moved connections pass");
    }
    overrule(container, &mut checks.found);
    checks.found
}
