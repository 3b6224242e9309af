//! Which memory of a process CRIU leaves out of a lazy dump.

use std::io;
use std::ops::Range;

use crate::process::Process;

/// A mapping that CRIU leaves to the pager (`vma_entry_can_be_lazy` in criu/include/vma.h).
pub type LazyRange = Range<u64>;

/// Names in /proc/PID/maps of memory that the kernel has put there.
const OF_THE_KERNEL: [&str; 6] = [
    "[vdso]",
    "[vvar]",
    "[vvar_vclock]",
    "[vsyscall]",
    "[vectors]",
    "[uprobes]",
];

/// Whether the flags of a mapping matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    /// Exactly what CRIU decides. The kernel walks all page tables for it: some ten milliseconds for a GiB.
    Read,
    /// Also memory that CRIU dumps because it is locked (mlock(2)), consists of huge pages of a pool (`MAP_HUGETLB`) or may be
    /// dropped (`MAP_DROPPABLE`). Never less than what it leaves out; quick.
    Ignored,
}

/// The lazy ranges of a process, in ascending order; none if it has ended.
///
/// # Errors
/// If /proc cannot be read.
pub fn lazy(process: &Process, flags: Flags) -> io::Result<Vec<LazyRange>> {
    let name = match flags {
        Flags::Read => "smaps",
        Flags::Ignored => "maps",
    };
    match std::fs::read_to_string(process.file(name)) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether an error says that the process has ended.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Parses /proc/PID/maps or /proc/PID/smaps.
fn parse(text: &str) -> Vec<LazyRange> {
    let mut found: Vec<LazyRange> = Vec::new();
    // Whether the last mapping was lazy, and its flags therefore matter.
    let mut open = false;
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if open && flags.split_ascii_whitespace().any(is_never_lazy) {
                found.pop();
            }
            open = false;
        } else if let Some((range, lazy)) = mapping(line) {
            open = lazy;
            if lazy {
                found.push(range);
            }
        }
    }
    found
}

/// `VmFlags` in proc_pid_smaps(5): locked, huge pages of a pool, droppable; input/output and pages without a struct page, which CRIU
/// refuses.
fn is_never_lazy(flag: &str) -> bool {
    matches!(flag, "lo" | "ht" | "dp" | "io" | "pf")
}

/// The first line of a mapping, and whether it may be lazy.
fn mapping(line: &str) -> Option<(LazyRange, bool)> {
    // 7f84fa70000-7fa84fa95000 rw-p 00000000 00:00 0    [heap]
    let mut fields = line.split_ascii_whitespace();
    let (begin, end) = fields.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let range = address(begin)?..address(end)?;
    let permissions = fields.next()?;
    let (_offset, device, inode) = (fields.next()?, fields.next()?, fields.next()?);
    let name = fields.next().unwrap_or_default();
    let private = permissions.as_bytes().get(3) == Some(&b'p');
    // A file has a device. One without inode is not a file either way.
    let anonymous = device == "00:00" && inode == "0";
    Some((
        range,
        private && anonymous && !OF_THE_KERNEL.contains(&name),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_anonymous_memory_is_lazy() {
        let text = "\
55d000-55e000 r--p 00000000 fe:00 123 /usr/bin/x y
55e000-560000 rw-p 00001000 fe:00 123 /usr/bin/x y
560000-570000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000001000 rw-s 00000000 00:01 77 /dev/zero (deleted)
7f0000001000-7f0000002000 ---p 00000000 00:00 0 
7f0000002000-7f0000003000 rw-p 00000000 00:00 0 [anon: jemalloc]
7f0000003000-7f0000004000 rw-s 00000000 00:11 9 /[aio] (deleted)
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]
7ffc00030000-7ffc00034000 r--p 00000000 00:00 0 [vvar]
7ffc00034000-7ffc00036000 r-xp 00000000 00:00 0 [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
";
        let expected = [
            0x560000..0x570000,
            0x7f0000001000..0x7f0000002000,
            0x7f0000002000..0x7f0000003000,
            0x7ffc00000000..0x7ffc00021000,
        ];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn flags_exclude_what_criu_dumps_itself() {
        let text = "\
1000-2000 rw-p 00000000 00:00 0 
Size:                  4 kB
VmFlags: rd wr mr mw me ac lo 
2000-3000 rw-p 00000000 00:00 0 
Rss:                   4 kB
VmFlags: rd wr mr mw me ac uw 
3000-4000 rw-s 00000000 00:01 5 /dev/zero (deleted)
VmFlags: rd wr sh lo
4000-5000 rw-p 00000000 00:00 0 
VmFlags: rd wr ht
";
        assert_eq!(parse(text), vec![0x2000..0x3000; 1]);
    }
}
