//! Memory of this host.

use crate::units;

/// How much programs can have without others being swapped out (`MemAvailable` in proc_meminfo(5)); 0 if that is not
/// known.
pub fn available_bytes() -> u64 {
    available(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn available(meminfo: &str) -> u64 {
    units::field_bytes(meminfo, "MemAvailable:").unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal: 100 kB\nMemAvailable:     50 kB\nBuffers: 1 kB\n";
        assert_eq!(available(text), 50 << 10);
        assert_eq!(available("MemTotal: 100 kB\n"), 0);
    }
}
