//! How fast the processor's counter is, which is the virtual machines' clock.

use std::time::{Duration, Instant};

/// A look at both clocks counts if it takes less than this: otherwise somebody else had the processor in between.
const MOMENT: Duration = Duration::from_micros(20);

/// For how long the two clocks are compared.
const COMPARED: Duration = Duration::from_millis(200);

/// The counter's frequency in kHz. Without being told, the kernel of a virtual machine compares its counter with
/// clocks that the emulator makes up, and if the emulator did not have the processor all the time, it believes
/// that the counter is slower than it is, by half or more: its clock is fast from then on. Takes a moment.
pub(crate) fn counter_khz() -> u128 {
    let (time, count) = look();
    std::thread::sleep(COMPARED);
    let (time_later, count_later) = look();
    let passed = time_later - time;
    u128::from(count_later.wrapping_sub(count)) * 1_000_000 / passed.as_nanos()
}

/// Both clocks at the same moment.
fn look() -> (Instant, u64) {
    loop {
        let before = Instant::now();
        let count = counter();
        if before.elapsed() < MOMENT {
            return (before, count);
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: it reads a counter that each processor has.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// There are no virtual machines; see [`super::missing`].
#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::counter_khz;

    #[test]
    fn the_counter_has_one_frequency() {
        let [one, other] = [counter_khz(), counter_khz()];
        assert!(one.abs_diff(other) * 1000 <= one, "{one} and {other} kHz");
    }
}
