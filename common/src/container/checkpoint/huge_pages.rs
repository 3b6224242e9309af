//! Memory that a container has in huge pages (hugetlbpage in the kernel's admin guide). CRIU maps it again as it was, for
//! which the destination must have as many free.

use std::collections::{BTreeMap, BTreeSet};

/// Bytes that `processes` have mapped in huge pages, by the size of the page in bytes. Processes that are gone are
/// skipped.
pub fn mapped(processes: &[i32]) -> BTreeMap<u64, u64> {
    let (mut found, mut known) = (BTreeMap::new(), BTreeSet::new());
    for pid in processes {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        // The kernel walks all page tables to print the other one.
        if !read("maps").is_ok_and(|maps| may_have(&maps)) {
            continue;
        }
        for mapping in mappings(&read("smaps").unwrap_or_default()) {
            let bytes = match known.insert(mapping.file) {
                true => mapping.bytes,
                // Shared, or what a process has changed since it was forked.
                false => mapping.own_bytes,
            };
            *found.entry(mapping.page_bytes).or_default() += bytes;
        }
    }
    found
}

/// All huge pages belong to files without a name: of a mapping, a memfd, or a SysV segment.
fn may_have(maps: &str) -> bool {
    let mut lines = maps.lines();
    lines.any(|line| line.ends_with(" (deleted)"))
}

struct Mapping {
    page_bytes: u64,
    bytes: u64,
    /// What nobody else has.
    own_bytes: u64,
    /// Offset, device and inode: there is a file behind memory without one, too.
    file: [String; 3],
}

/// The mappings of huge pages in proc_pid_smaps(5).
fn mappings(smaps: &str) -> Vec<Mapping> {
    let (mut found, mut current) = (Vec::new(), None);
    let (mut size, mut page, mut own, mut resident) = (0, 0, 0, 0);
    for line in smaps.lines() {
        let Some((name, value)) = line.split_once(':').filter(|(name, _)| !name.contains(' '))
        else {
            let mut fields = line.split_ascii_whitespace().skip(2).map(str::to_owned);
            current = fields.next().zip(fields.next()).zip(fields.next());
            (own, resident) = (0, 0);
            continue;
        };
        let bytes = || {
            let number = value.trim().strip_suffix(" kB");
            number
                .and_then(|n| n.trim().parse::<u64>().ok())
                .unwrap_or_default()
                << 10
        };
        match name {
            "Size" => size = bytes(),
            "KernelPageSize" => page = bytes(),
            "Shared_Hugetlb" => resident += bytes(),
            "Private_Hugetlb" => {
                own = bytes();
                resident += own;
            }
            "VmFlags" => {
                let has = |flag: &str| value.split_ascii_whitespace().any(|f| f == flag);
                let of = current.take().filter(|_| has("ht"));
                found.extend(of.map(|((offset, device), inode)| Mapping {
                    page_bytes: page,
                    // Nothing is put aside for what it has not touched yet.
                    bytes: if has("nr") { resident } else { size },
                    own_bytes: if has("sh") { 0 } else { own },
                    file: [offset, device, inode],
                }));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_huge_pages_are_counted() {
        let smaps = "7fd33f200000-7fd33f600000 rw-p 00000000 00:11 5972074  /anon_hugepage (deleted)\n\
                     Size:               4096 kB\n\
                     KernelPageSize:     2048 kB\n\
                     Private_Hugetlb:    2048 kB\n\
                     VmFlags: rd wr mr mw me ht\n\
                     7fd33f600000-7fd33f700000 rw-p 00000000 00:00 0\n\
                     Size:               1024 kB\n\
                     KernelPageSize:        4 kB\n\
                     VmFlags: rd wr mr mw me\n\
                     7fd33f800000-7fd33fc00000 rw-s 00000000 00:11 7  /memfd:x (deleted)\n\
                     Size:               4096 kB\n\
                     KernelPageSize:     2048 kB\n\
                     Shared_Hugetlb:     2048 kB\n\
                     VmFlags: rd wr sh mr mw me nr ht\n";
        let found = mappings(smaps);
        let sizes: Vec<_> = found
            .iter()
            .map(|m| (m.page_bytes, m.bytes, m.own_bytes))
            .collect();
        let mib = |number: u64| number << 20;
        assert_eq!(sizes, [(mib(2), mib(4), mib(2)), (mib(2), mib(2), 0)]);
        assert_eq!(found[1].file, ["00000000", "00:11", "7"]);
        assert!(mapped(&[std::process::id() as i32]).is_empty());
    }
}
