//! Finds the highest rate for which something holds.

use anyhow::Result;

/// How often the range is halved.
const STEPS: u32 = 8;

/// The highest rate up to `most` for which `holds` is true, within a 256th of `most`; at least that
/// much.
pub(super) fn highest(most: f64, mut holds: impl FnMut(u64) -> Result<bool>) -> Result<u64> {
    let unit = (most as u64 >> STEPS).max(1);
    let (mut good, mut bad) = (1, 1 << STEPS);
    while bad - good > 1 {
        let middle = u64::midpoint(good, bad);
        if holds(middle * unit)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(good * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_is_found() {
        let mut tries = 0;
        let found = highest(25_600.0, |rate| {
            tries += 1;
            Ok(rate <= 7777)
        });
        assert_eq!(found.unwrap(), 7700);
        assert!(tries <= STEPS);
        assert_eq!(highest(25_600.0, |_| Ok(false)).unwrap(), 100);
        assert_eq!(highest(25_600.0, |_| Ok(true)).unwrap(), 25_500);
        assert_eq!(highest(0.0, |_| Ok(true)).unwrap(), 255);
    }
}
