//! How long a container will be frozen, by how long others were on their way to the same host.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use common::container::ContainerFacts;
use common::host::HostFacts;
use common::preflight::{Check, Side, Verdict, memory};
use common::units;
use common::{durable, paths};
use serde::{Deserialize, Serialize};

use crate::address::Address;

/// So many outages on the way to one host are remembered.
const MOST: usize = 16;

/// So many hosts are.
const MOST_HOSTS: usize = 256;

/// What an outage takes if nothing has moved there yet: without memory, and for each MiB that it sends (docs/outage.md).
const FIRST_MS: f64 = 300.0;
const FIRST_MS_PER_MIB: f64 = 12.0;

/// Outages that differ by less than this do not tell how much longer it takes to send more.
const TELLING_MIB: f64 = 16.0;

/// The name of the check that says it.
pub(crate) const OUTAGE: &str = "outage";

const MIB: f64 = 1_048_576.0;

/// What an outage had to send, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) bytes: u64,
    pub(super) freeze_ms: u64,
}

/// The last outages on the way to one host, the newest last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Past(Vec<Seen>);

impl Past {
    /// Those on the way to `destination`. What cannot be read is as if it had not been.
    pub(super) fn of(destination: &str) -> Self {
        let mut all = read(&file()).unwrap_or_default();
        Past(all.remove(destination).unwrap_or_default())
    }

    /// How long an outage will be that sends so many bytes, in milliseconds.
    pub(super) fn estimate_ms(&self, bytes: u64) -> u64 {
        let mib = |seen: &Seen| seen.bytes as f64 / MIB;
        let (all, per_mib) = (&self.0, self.ms_per_mib());
        let bases = all
            .iter()
            .map(|seen| seen.freeze_ms as f64 - per_mib * mib(seen));
        let base = median(bases).map_or(FIRST_MS, |base| base.max(0.0));
        (base + per_mib * bytes as f64 / MIB).round() as u64
    }

    /// The slope of the line that is nearest to all (least squares).
    fn ms_per_mib(&self) -> f64 {
        let count = self.0.len() as f64;
        let points = || {
            self.0
                .iter()
                .map(|seen| (seen.bytes as f64 / MIB, seen.freeze_ms as f64))
        };
        let sizes = points().map(|(mib, _)| mib);
        let spread = sizes.clone().fold(0.0, f64::max) - sizes.clone().fold(f64::MAX, f64::min);
        if spread < TELLING_MIB {
            return FIRST_MS_PER_MIB;
        }
        let (mib, ms) = points().fold((0.0, 0.0), |(a, b), (mib, ms)| (a + mib, b + ms));
        let (mib, ms) = (mib / count, ms / count);
        let together: f64 = points().map(|(a, b)| (a - mib) * (b - ms)).sum();
        let alone: f64 = sizes.map(|a| (a - mib).powi(2)).sum();
        (together / alone).max(0.0)
    }

    /// The estimate in words.
    pub(super) fn words(&self, bytes: u64) -> String {
        let about = units::milliseconds(self.estimate_ms(bytes));
        match self.0.len() {
            0 => format!("about {about}: a guess, nothing has moved there yet"),
            1 => format!("about {about}, by the last migration there"),
            count => format!("about {about}, by the last {count} migrations there"),
        }
    }
}

/// Says of a container how long it will be frozen: for `check`, and in milliseconds.
pub(super) fn of(facts: &ContainerFacts, host: &HostFacts, destination: &Address) -> (Check, u64) {
    let past = Past::of(&destination.to_string());
    // Of memory that goes ahead little is left for the outage.
    let bytes = match memory::stays(facts, host) {
        Some(_) => facts.memory_bytes,
        None => 0,
    };
    let check = Check {
        name: OUTAGE.to_owned(),
        host: Side::Source,
        verdict: Verdict::Ok,
        detail: past.words(bytes),
    };
    (check, past.estimate_ms(bytes))
}

/// Remembers an outage on the way to `destination`. Not undone; the oldest ones are forgotten.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn remember(destination: &str, seen: Seen) -> io::Result<()> {
    remember_in(&file(), destination, seen)
}

fn remember_in(file: &Path, destination: &str, seen: Seen) -> io::Result<()> {
    let mut all = read(file).unwrap_or_default();
    if all.len() >= MOST_HOSTS && !all.contains_key(destination) {
        all.pop_first();
    }
    let past = all.entry(destination.to_owned()).or_default();
    past.push(seen);
    past.drain(..past.len().saturating_sub(MOST));
    durable::replace(file, 0o644, &serde_json::to_vec(&all)?)
}

fn read(file: &Path) -> Option<BTreeMap<String, Vec<Seen>>> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn file() -> PathBuf {
    paths::client_dir().join("outages.json")
}

fn median(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(mib: u64, freeze_ms: u64) -> Seen {
        Seen {
            bytes: mib << 20,
            freeze_ms,
        }
    }

    #[test]
    fn without_a_past_it_is_a_guess() {
        let past = Past::default();
        assert_eq!(past.estimate_ms(0), 300);
        assert_eq!(past.estimate_ms(100 << 20), 1500);
        assert!(past.words(0).contains("guess"));
    }

    #[test]
    fn small_ones_tell_of_small_ones() {
        let past = Past(vec![
            seen(1, 212),
            seen(2, 9000),
            seen(1, 202),
            seen(1, 222),
        ]);
        assert_eq!(past.estimate_ms(1 << 20), 222);
        assert!(past.words(0).contains("by the last 4"), "{}", past.words(0));
    }

    #[test]
    fn large_ones_tell_how_much_longer_more_takes() {
        // 200 ms, and 5 ms for each MiB.
        let past = Past(vec![seen(0, 200), seen(100, 700), seen(300, 1700)]);
        assert_eq!(past.estimate_ms(0), 200);
        assert_eq!(past.estimate_ms(200 << 20), 1200);
        // More in less time tells nothing: it was a busy day.
        let past = Past(vec![seen(0, 900), seen(100, 400)]);
        assert_eq!(past.estimate_ms(50 << 20), past.estimate_ms(0));
    }

    #[test]
    fn the_last_ones_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outages.json");
        std::fs::write(&file, "no JSON").unwrap();
        for n in 0..20 {
            remember_in(&file, "b:50051", seen(n, n)).unwrap();
        }
        remember_in(&file, "c:50051", seen(1, 1)).unwrap();
        let all = read(&file).unwrap();
        assert_eq!(all["b:50051"].len(), MOST);
        assert_eq!(all["b:50051"].last(), Some(&seen(19, 19)));
        assert_eq!(all["c:50051"].len(), 1);
        for n in 0..MOST_HOSTS + 3 {
            remember_in(&file, &format!("d{n}"), seen(1, 1)).unwrap();
        }
        assert_eq!(read(&file).unwrap().len(), MOST_HOSTS);
    }
}
