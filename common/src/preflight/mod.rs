//! Could this container move? Pure rules over facts; the agents gather these.

use serde::{Deserialize, Serialize};

mod apart;
mod binds;
mod confinement;
mod cpu;
mod destination;
mod facts;
mod firewalls;
mod force;
mod log;
pub mod memory;
mod programs;
mod room;
mod roots;
mod service;
mod source;
#[cfg(test)]
mod tests;
mod volumes;

pub use destination::destination;
pub use facts::DestinationFacts;
pub use firewalls::firewalls;
pub use force::JUDGEMENTS;
pub use source::source;

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked, in a word or two.
    #[serde(deserialize_with = "crate::protocol::text::one")]
    pub name: String,
    /// Which host it is about.
    pub host: Side,
    /// Whether it passed.
    pub verdict: Verdict,
    /// What was found; for a failure, also what to do about it.
    #[serde(deserialize_with = "crate::protocol::text::one")]
    pub detail: String,
}

/// One of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The host the container runs on.
    Source,
    /// The host it is to move to.
    Destination,
}

/// Verdict of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Passed.
    Ok,
    /// Passed, with something the operator should know.
    Warning,
    /// Failed: the container cannot move.
    Failed,
}

struct Checks {
    host: Side,
    found: Vec<Check>,
}

impl Checks {
    fn add(&mut self, name: &str, verdict: Verdict, detail: impl Into<String>) {
        self.found.push(Check {
            name: name.to_owned(),
            host: self.host,
            verdict,
            detail: detail.into(),
        });
    }

    fn expect(&mut self, name: &str, holds: bool, found: impl Into<String>, advice: &str) {
        let found = found.into();
        if holds {
            self.add(name, Verdict::Ok, found);
        } else {
            self.add(name, Verdict::Failed, format!("{found}: {advice}"));
        }
    }
}

/// Whether no check failed.
pub fn passed(checks: &[Check]) -> bool {
    checks.iter().all(|c| c.verdict != Verdict::Failed)
}

fn join<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn list_or_none(items: &[String]) -> String {
    if items.is_empty() {
        "none".into()
    } else {
        items.join(", ")
    }
}

fn short(id: &str) -> &str {
    &id[..id.floor_char_boundary(12)]
}
