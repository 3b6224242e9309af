//! When to stop sending ahead and freeze.

use std::time::Duration;

use crate::PAGE_BYTES;

/// What one round over all processes did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Pages that have content.
    pub examined_pages: u64,
    /// Of these, those that were sent.
    pub sent_pages: u64,
    /// Of these, those that are zero, and cost nothing.
    pub zero_pages: u64,
    /// Pages that could not be read: they vanished meanwhile, or nobody may read them.
    pub unread_pages: u64,
    /// From its begin to the begin of the next one.
    pub duration: Duration,
}

impl Round {
    /// Bytes of content that were sent.
    pub fn content_bytes(&self) -> u64 {
        (self.sent_pages - self.zero_pages) * PAGE_BYTES as u64
    }

    fn bytes_per_second(&self) -> f64 {
        self.content_bytes() as f64 / self.duration.as_secs_f64().max(1e-6)
    }
}

/// Until when rounds go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What sending the last changes in the outage may take.
    pub target: Duration,
    /// Rounds at most.
    pub most_rounds: u32,
    /// Time for all of them.
    pub most_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            target: Duration::from_millis(50),
            most_rounds: 16,
            most_time: Duration::from_secs(60),
        }
    }
}

/// What comes after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another round.
    Again,
    /// The freeze.
    Freeze(Why),
}

/// Why rounds have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// What is left can be sent in the time that it may take.
    Fits,
    /// As much changes during a round as the round sends.
    NoLonger,
    /// There were enough of them.
    Rounds,
    /// They took long enough.
    Time,
}

/// What is known after some rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes that would have to be sent if the container were frozen now.
    pub left_bytes: u64,
    /// How fast its memory changes, in bytes per second; each page counts once a round.
    pub dirty_bytes_per_second: u64,
    /// How long sending what is left takes.
    pub outage: Duration,
}

/// Rounds that are too small say nothing about the speed of sending.
const TELLING_BYTES: u64 = 1 << 20;

/// An estimate of what is left after `rounds`, none before the second.
///
/// A round sends what changed during the one before. So the last one tells how fast memory changes, and what has changed during
/// the last one is still to be sent.
pub fn estimate(rounds: &[Round]) -> Option<Estimate> {
    let [.., before, last] = rounds else {
        return None;
    };
    let dirty = last.content_bytes() as f64 / before.duration.as_secs_f64().max(1e-6);
    let left = dirty * last.duration.as_secs_f64();
    let speed = rounds
        .iter()
        .filter(|round| round.content_bytes() >= TELLING_BYTES)
        .map(Round::bytes_per_second)
        .fold(0.0, f64::max);
    let outage = match (left, speed) {
        (0.0, _) => 0.0,
        // Nothing but small rounds: each took as long as it says.
        (_, 0.0) => last.duration.as_secs_f64(),
        (left, speed) => left / speed,
    };
    Some(Estimate {
        left_bytes: left as u64,
        dirty_bytes_per_second: dirty as u64,
        outage: Duration::from_secs_f64(outage),
    })
}

/// Decides after `rounds`, of which there is at least one.
pub fn next(rounds: &[Round], limits: &Limits) -> Next {
    let spent: Duration = rounds.iter().map(|round| round.duration).sum();
    let now = estimate(rounds);
    if now.is_some_and(|now| now.outage <= limits.target) {
        Next::Freeze(Why::Fits)
    } else if rounds.len() >= limits.most_rounds as usize {
        Next::Freeze(Why::Rounds)
    } else if spent >= limits.most_time {
        Next::Freeze(Why::Time)
    } else if no_longer_shrinks(rounds) {
        Next::Freeze(Why::NoLonger)
    } else {
        Next::Again
    }
}

/// Whether two rounds in a row left at least nine tenths of what the one before them left.
fn no_longer_shrinks(rounds: &[Round]) -> bool {
    let lefts: Vec<f64> = (2..=rounds.len())
        .filter_map(|count| Some(estimate(&rounds[..count])?.left_bytes as f64))
        .collect();
    match lefts[..] {
        [.., first, second, third] => second >= first * 0.9 && third >= first * 0.9,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn round(mib: u64, ms: u64) -> Round {
        Round {
            examined_pages: 1 << 20,
            sent_pages: mib * MIB / PAGE_BYTES as u64,
            zero_pages: 0,
            unread_pages: 0,
            duration: Duration::from_millis(ms),
        }
    }

    fn limits() -> Limits {
        Limits {
            target: Duration::from_millis(50),
            most_rounds: 10,
            most_time: Duration::from_secs(30),
        }
    }

    #[test]
    fn idle_memory_needs_two_rounds() {
        let rounds = [round(1000, 1000), round(0, 10)];
        assert_eq!(next(&rounds[..1], &limits()), Next::Again);
        assert_eq!(next(&rounds, &limits()), Next::Freeze(Why::Fits));
        assert_eq!(estimate(&rounds).unwrap().left_bytes, 0);
    }

    #[test]
    fn writes_that_are_slower_than_the_wire_shrink_until_they_fit() {
        // 1000 MiB/s are sent, 100 MiB/s change.
        let mut rounds = vec![round(1000, 1000)];
        while next(&rounds, &limits()) == Next::Again {
            let last = rounds.last().unwrap().duration.as_millis() as u64;
            rounds.push(round(last / 10, last / 10));
        }
        assert_eq!(next(&rounds, &limits()), Next::Freeze(Why::Fits));
        assert_eq!(rounds.len(), 2);
        let estimate = estimate(&rounds).unwrap();
        assert_eq!(estimate.dirty_bytes_per_second, 100 * MIB);
        assert_eq!(estimate.left_bytes, 10 * MIB);
        assert_eq!(estimate.outage, Duration::from_millis(10));
    }

    #[test]
    fn writes_as_fast_as_the_wire_never_fit() {
        let rounds = vec![round(1000, 1000); 4];
        assert_eq!(next(&rounds[..3], &limits()), Next::Again);
        assert_eq!(next(&rounds, &limits()), Next::Freeze(Why::NoLonger));
    }

    #[test]
    fn rounds_and_time_are_bounded() {
        // Each leaves a little less than the one before, for ever.
        let slow: Vec<Round> = (0..10).map(|n| round(1000 - 60 * n, 1000)).collect();
        assert_eq!(next(&slow[..9], &limits()), Next::Again);
        assert_eq!(next(&slow, &limits()), Next::Freeze(Why::Rounds));
        let long = [round(1000, 20_000), round(900, 20_000)];
        assert_eq!(next(&long, &limits()), Next::Freeze(Why::Time));
    }

    #[test]
    fn zero_pages_cost_nothing() {
        let mut last = round(100, 10);
        last.zero_pages = last.sent_pages;
        let rounds = [round(1000, 1000), last];
        assert_eq!(next(&rounds, &limits()), Next::Freeze(Why::Fits));
    }
}
