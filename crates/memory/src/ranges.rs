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

/// The lazy ranges of a process, each list in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LazyRanges {
    /// What may be executed. CRIU writes code of its own into memory of that kind while it dumps (`syscall_ip` in
    /// compel/src/lib/infect.c), into no other.
    pub executable: Vec<LazyRange>,
    /// All others.
    pub others: Vec<LazyRange>,
}

impl LazyRanges {
    /// All of them.
    pub fn all(&self) -> Vec<LazyRange> {
        [self.executable.as_slice(), &self.others].concat()
    }
}

/// The lazy ranges of a process; none if it has ended.
///
/// # Errors
/// If /proc cannot be read.
pub fn lazy(process: &Process, flags: Flags) -> io::Result<LazyRanges> {
    let name = match flags {
        Flags::Read => "smaps",
        Flags::Ignored => "maps",
    };
    match std::fs::read_to_string(process.file(name)) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if is_gone(&error) => Ok(LazyRanges::default()),
        Err(error) => Err(error),
    }
}

/// Whether an error says that the process has ended.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Parses /proc/PID/maps or /proc/PID/smaps.
fn parse(text: &str) -> LazyRanges {
    let mut found = LazyRanges::default();
    // The last mapping, until its flags are known, if they matter.
    let mut last: Option<Mapping> = None;
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if flags.split_ascii_whitespace().any(is_never_lazy) {
                last = None;
            }
        } else if let Some(mapping) = mapping(line) {
            found.add(last.replace(mapping));
        }
    }
    found.add(last);
    found
}

struct Mapping {
    range: LazyRange,
    lazy: bool,
    executable: bool,
}

impl LazyRanges {
    fn add(&mut self, mapping: Option<Mapping>) {
        match mapping.filter(|mapping| mapping.lazy) {
            Some(mapping) if mapping.executable => self.executable.push(mapping.range),
            Some(mapping) => self.others.push(mapping.range),
            None => {}
        }
    }
}

/// `VmFlags` in proc_pid_smaps(5): locked, huge pages of a pool, droppable; input/output and pages without a struct page, which CRIU
/// refuses.
fn is_never_lazy(flag: &str) -> bool {
    matches!(flag, "lo" | "ht" | "dp" | "io" | "pf")
}

/// The first line of a mapping.
fn mapping(line: &str) -> Option<Mapping> {
    // 7f84fa70000-7fa84fa95000 rw-p 00000000 00:00 0    [heap]
    let mut fields = line.split_ascii_whitespace();
    let (begin, end) = fields.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let range = address(begin)?..address(end)?;
    let permissions = fields.next()?;
    let (_offset, device, inode) = (fields.next()?, fields.next()?, fields.next()?);
    let name = fields.next().unwrap_or_default();
    let permission = |at: usize| permissions.as_bytes().get(at).copied();
    // A file has a device. One without inode is not a file either way.
    let anonymous = device == "00:00" && inode == "0";
    Some(Mapping {
        range,
        lazy: permission(3) == Some(b'p') && anonymous && !OF_THE_KERNEL.contains(&name),
        executable: permission(2) == Some(b'x'),
    })
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
7f0000004000-7f0000005000 rwxp 00000000 00:00 0 
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
        let found = parse(text);
        assert_eq!(found.others, expected);
        assert_eq!(found.executable, vec![0x7f0000004000..0x7f0000005000; 1]);
        assert_eq!(found.all().len(), 5);
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
        assert_eq!(parse(text).all(), vec![0x2000..0x3000; 1]);
    }
}
