//! Packets that a processor has taken in and not handed on yet.
//!
//! What one container sends another, or its host, waits in the backlog of the processor that sent it, behind one
//! end of a pair of interfaces. On a busy machine that takes as long as `ksoftirqd` waits for its turn. Rules that
//! come meanwhile concern such a packet or not, depending on how far it has come.

use std::time::{Duration, Instant};

/// One line per processor; its 12th column is the length of the backlog (`softnet_seq_show` in the kernel's
/// net/core/net-procfs.c, since Linux 5.10; before that there is no such column).
const FILE: &str = "/proc/net/softnet_stat";
const LENGTH_COLUMN: usize = 11;

/// Between two looks. A packet is in no backlog for a moment while it goes from one to the next.
const LOOK: Duration = Duration::from_micros(100);

/// How often in succession a processor's backlog must be seen empty.
const LOOKS: u32 = 2;

/// Waits until the packets that are in a backlog now have been handed on, but no longer than `limit`: where packets
/// never stop, no backlog may ever be seen empty. Returns whether they have been. Changes nothing; blocks the
/// calling thread.
pub fn wait_handed_on(limit: Duration) -> bool {
    let begun = Instant::now();
    let mut empty: Vec<u32> = Vec::new();
    loop {
        let Ok(table) = std::fs::read_to_string(FILE) else {
            return false;
        };
        count_empty(&mut empty, &table);
        if empty.iter().all(|looks| *looks >= LOOKS) {
            return true;
        }
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// Counts for each processor how often its backlog was seen empty. Once it was so often enough, what came later
/// does not matter.
fn count_empty(empty: &mut Vec<u32>, table: &str) {
    let length = |line: &str| {
        let column = line.split_whitespace().nth(LENGTH_COLUMN)?;
        u32::from_str_radix(column, 16).ok()
    };
    empty.resize(table.lines().count(), 0);
    for (looks, line) in empty.iter_mut().zip(table.lines()) {
        match length(line).unwrap_or(0) {
            0 => *looks += 1,
            _ if *looks < LOOKS => *looks = 0,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "07819dab 00000000 0000003e 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n";
    const FULL: &str = "0720ad16 00000000 0000002d 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 0000000a 00000001 00000003 00000007\n";

    #[test]
    fn each_processor_is_seen_empty_twice_in_succession() {
        let mut empty = Vec::new();
        let both = |first: &str, second: &str| format!("{first}{second}");
        for (table, expected) in [
            (both(EMPTY, FULL), [1, 0]),
            (both(EMPTY, EMPTY), [2, 1]),
            (both(FULL, FULL), [2, 0]),
            (both(EMPTY, EMPTY), [3, 1]),
            (both(EMPTY, EMPTY), [4, 2]),
        ] {
            count_empty(&mut empty, &table);
            assert_eq!(empty, expected, "{table}");
        }
    }

    #[test]
    fn a_kernel_that_does_not_say_is_not_waited_for() {
        let mut empty = Vec::new();
        count_empty(&mut empty, "07819dab 00000000 0000003e\n");
        assert_eq!(empty, [1]);
    }

    #[test]
    fn what_is_there_now_is_handed_on() {
        assert!(wait_handed_on(Duration::from_secs(30)));
    }
}
