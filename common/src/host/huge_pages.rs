//! Huge pages that nobody uses.

use std::collections::BTreeMap;
use std::path::Path;

/// Where the kernel has its pools (hugetlbpage in its admin guide).
const POOLS: &str = "/sys/kernel/mm/hugepages";

/// Bytes that can still be had in huge pages, by the size of the page in bytes.
pub fn free() -> BTreeMap<u64, u64> {
    free_in(Path::new(POOLS))
}

fn free_in(pools: &Path) -> BTreeMap<u64, u64> {
    let pools = std::fs::read_dir(pools).into_iter().flatten().flatten();
    let free = pools.filter_map(|pool| {
        let name = pool.file_name().into_string().ok()?;
        let size: u64 = name
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        let read = |name: &str| {
            let text = std::fs::read_to_string(pool.path().join(name)).unwrap_or_default();
            text.trim().parse::<u64>().unwrap_or_default()
        };
        // Some of those that are free are promised; more can be made, as far as memory has room.
        let free = read("free_hugepages").saturating_sub(read("resv_hugepages"));
        let more = read("nr_overcommit_hugepages").saturating_sub(read("surplus_hugepages"));
        Some((size << 10, (free + more).saturating_mul(size << 10)))
    });
    free.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_not_free() {
        let dir = tempfile::tempdir().unwrap();
        let pool = dir.path().join("hugepages-2048kB");
        std::fs::create_dir(&pool).unwrap();
        for (name, number) in [
            ("free_hugepages", 3),
            ("resv_hugepages", 2),
            ("nr_overcommit_hugepages", 5),
            ("surplus_hugepages", 1),
        ] {
            std::fs::write(pool.join(name), format!("{number}\n")).unwrap();
        }
        assert_eq!(free_in(dir.path()), [(2 << 20, 10 << 20)].into());
    }
}
