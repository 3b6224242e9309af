//! What memory images depend on in a host's processors.

use std::collections::BTreeSet;

/// Number of processors that the kernel can use.
pub(super) fn possible() -> u32 {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    count(&text).unwrap_or(1)
}

/// Page size, in bytes.
pub(super) fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().map_or(4096, |bytes| bytes as u64)
}

/// How many processors `0-3,8-11` stands for (Documentation/admin-guide/cputopology.rst).
fn count(list: &str) -> Option<u32> {
    list.trim()
        .split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            last.checked_sub(first)?.checked_add(1)
        })
        .sum()
}

/// The feature flags of the first processor in `/proc/cpuinfo`.
pub(super) fn flags(cpuinfo: &str) -> BTreeSet<String> {
    cpuinfo
        .lines()
        .find_map(|line| {
            let (key, value) = line.split_once(':')?;
            matches!(key.trim(), "flags" | "Features").then_some(value)
        })
        .map(|flags| flags.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_first_processor() {
        let info = "processor\t: 0\nflags\t\t: fpu avx2\nprocessor\t: 1\nflags\t\t: fpu\n";
        assert_eq!(flags(info).into_iter().collect::<Vec<_>>(), ["avx2", "fpu"]);
    }

    #[test]
    fn lists_of_processors_are_counted() {
        assert_eq!(count("0\n"), Some(1));
        assert_eq!(count("0-63\n"), Some(64));
        assert_eq!(count("0-3,8-11"), Some(8));
        assert_eq!(count(""), None);
        assert_eq!(count("3-0"), None);
    }
}
