//! Private memory that a container's processes share since they were forked. Where memory goes ahead of the outage, each
//! gets a copy of its own.

use crate::units;

/// Bytes that `processes` take in addition once they share none. Processes that are gone are skipped.
pub fn additional_bytes(processes: &[i32]) -> u64 {
    let read = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let texts = processes.iter().filter_map(|pid| read(pid).ok());
    texts.map(|text| shared_with_others(&text)).sum()
}

/// What others have of a process's private memory, by proc_pid_smaps(5): of a page that three processes share, two
/// thirds.
fn shared_with_others(rollup: &str) -> u64 {
    let all = units::field_bytes(rollup, "Anonymous:").unwrap_or_default();
    let own = units::field_bytes(rollup, "Pss_Anon:").unwrap_or(all);
    all.saturating_sub(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_too_is_counted() {
        let rollup = "Rss:  900 kB\nPss_Anon:  100 kB\nAnonymous:   300 kB\n";
        assert_eq!(shared_with_others(rollup), 200 << 10);
        assert_eq!(shared_with_others("Anonymous:   300 kB\n"), 0);
    }
}
