//! No change of a page is lost, whoever makes it: real processes write while rounds go on, and what a receiver has after the
//! frozen round is compared with the frozen processes, byte by byte.

mod support;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use memory::PAGE_BYTES;
use memory::process;
use memory::source::Source;
use memory::stream::Run;
use memory::tracker::{Abilities, Kind};

use self::support::{Cgroup, Counter, PART, Part, Random, Receiver, map};

const ROUNDS: usize = 6;
const MIB: usize = 1 << 20;

/// Set when the part is to end.
static END: AtomicBool = AtomicBool::new(false);

extern "C" fn end(_: i32) {
    END.store(true, Ordering::SeqCst);
}

fn going_on() -> bool {
    !END.load(Ordering::SeqCst)
}

/// Not a test: what the processes do that the tests start. It ends them when it is done.
#[test]
fn parts() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    // SAFETY: the handler does nothing but store.
    unsafe { libc::signal(libc::SIGTERM, end as *const () as libc::sighandler_t) };
    let counter = Counter::of_this_part();
    match part.as_str() {
        "threads" => threads(&counter),
        "forks" => forks(&counter),
        "moves" => moves(&counter),
        "huge" => huge(&counter),
        "kernel" => kernel(&counter),
        "direct" => direct(&counter),
        "execs" => execs(&counter),
        other => panic!("no part {other}"),
    }
    std::process::exit(0);
}

/// Writes numbers into pages and remembers them elsewhere: finds out if a write of its own is lost.
fn scribble(memory: *mut u8, pages: usize, random: &mut Random, known: &mut [u64], times: usize) {
    for _ in 0..times {
        let page = random.below(pages as u64) as usize;
        // SAFETY: within the mapping.
        let word = unsafe { memory.add(page * PAGE_BYTES + 8 * (page % 512)) }.cast::<u64>();
        // SAFETY: as above, and aligned.
        unsafe {
            assert_eq!(word.read_volatile(), known[page], "page {page}");
            known[page] = random.next();
            word.write_volatile(known[page]);
        }
    }
}

fn threads(counter: &Counter) {
    std::thread::scope(|scope| {
        for number in 1..=3 {
            scope.spawn(move || {
                let pages = 16 * MIB / PAGE_BYTES;
                let (memory, mut known) = (map(16 * MIB, 0), vec![0; pages]);
                let mut random = Random(number);
                while going_on() {
                    scribble(memory, pages, &mut random, &mut known, 500);
                    counter.count();
                    if number == 3 {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                }
            });
        }
    });
}

fn forks(counter: &Counter) {
    let pages = 8 * MIB / PAGE_BYTES;
    let (memory, mut known) = (map(8 * MIB, 0), vec![0; pages]);
    let mut random = Random(7);
    let mut children = Vec::new();
    while going_on() {
        scribble(memory, pages, &mut random, &mut known, 200);
        // SAFETY: this process has one thread beside the harness's, which holds nothing here.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // Some stay and write into what they share with their parent until then.
            let mut random = Random(u64::from(std::process::id()));
            while going_on() {
                scribble(memory, pages, &mut random, &mut known, 100);
                counter.count();
                if random.below(20) == 0 {
                    break;
                }
            }
            // SAFETY: no pointers are passed.
            unsafe { libc::_exit(0) };
        }
        children.push(child);
        if children.len() > 3 {
            let mut status = 0;
            // SAFETY: the status lives.
            unsafe { libc::waitpid(children.remove(0), &mut status, 0) };
            assert_eq!(status, 0, "a child found something wrong");
        }
    }
    for child in children {
        // SAFETY: no pointers are passed.
        unsafe { libc::kill(child, libc::SIGTERM) };
    }
}

fn moves(counter: &Counter) {
    let bytes = 4 * MIB;
    let pages = bytes / PAGE_BYTES;
    let mut memories: Vec<(*mut u8, Vec<u64>)> =
        (0..6).map(|_| (map(bytes, 0), vec![0; pages])).collect();
    let mut random = Random(11);
    while going_on() {
        let which = random.below(6) as usize;
        let (memory, known) = &mut memories[which];
        scribble(*memory, pages, &mut random, known, 300);
        let (at, count) = (random.below(pages as u64 - 64) as usize, 64);
        let part = memory.wrapping_add(at * PAGE_BYTES).cast::<libc::c_void>();
        // SAFETY: all within mappings that this loop owns.
        unsafe {
            match random.below(5) {
                0 => {
                    assert_eq!(
                        libc::madvise(part, count * PAGE_BYTES, libc::MADV_DONTNEED),
                        0
                    );
                    known[at..at + count].fill(0);
                }
                1 => {
                    let target = map(bytes, 0).cast();
                    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                    let moved = libc::mremap((*memory).cast(), bytes, bytes, flags, target);
                    assert_eq!(moved, target);
                    *memory = moved.cast();
                }
                2 => {
                    // It moves into the middle of a larger free place, and grows there.
                    let target = map(3 * bytes, 0);
                    let (middle, flags) =
                        (target.add(bytes), libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED);
                    let moved = libc::mremap(
                        (*memory).cast(),
                        bytes,
                        bytes,
                        flags,
                        middle.cast::<libc::c_void>(),
                    );
                    assert_eq!(moved, middle.cast());
                    libc::munmap(target.cast(), bytes);
                    libc::munmap(target.add(2 * bytes).cast(), bytes);
                    *memory = middle;
                }
                3 => {
                    // The same addresses anew.
                    libc::munmap((*memory).cast(), bytes);
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                    let protection = libc::PROT_READ | libc::PROT_WRITE;
                    let again = libc::mmap((*memory).cast(), bytes, protection, flags, -1, 0);
                    assert_eq!(again, (*memory).cast());
                    known.fill(0);
                }
                _ => {
                    // Parts that it may not read itself for a while.
                    libc::mprotect(part, count * PAGE_BYTES, libc::PROT_NONE);
                    counter.count();
                    let protection = libc::PROT_READ | libc::PROT_WRITE;
                    libc::mprotect(part, count * PAGE_BYTES, protection);
                }
            }
        }
        counter.count();
    }
}

fn huge(counter: &Counter) {
    let bytes = 32 * MIB;
    let pages = bytes / PAGE_BYTES;
    let memory = map(bytes, 0);
    // SAFETY: the mapping.
    unsafe { libc::madvise(memory.cast(), bytes, libc::MADV_HUGEPAGE) };
    let (mut random, mut known) = (Random(13), vec![0; pages]);
    while going_on() {
        scribble(memory, pages, &mut random, &mut known, 50);
        if random.below(50) == 0 {
            let at = random.below(14) as usize * 512;
            // SAFETY: within the mapping.
            unsafe {
                let part = memory.add(at * PAGE_BYTES).cast();
                libc::madvise(part, 1024 * PAGE_BYTES, libc::MADV_DONTNEED);
            }
            known[at..at + 1024].fill(0);
        }
        counter.count();
    }
}

/// The kernel writes for the process, in read(2).
fn kernel(counter: &Counter) {
    let bytes = 8 * MIB;
    let memory = map(bytes, 0);
    let mut random = Random(17);
    let source = File::open("/dev/urandom").unwrap();
    while going_on() {
        let at = random.below((bytes - 10_000) as u64) as usize;
        // SAFETY: within the mapping.
        let read = unsafe { libc::read(source.as_raw_fd(), memory.add(at).cast(), 10_000) };
        // Less if it was stopped meanwhile.
        assert!(read > 0);
        counter.count();
    }
}

/// A device writes for the process: read(2) with `O_DIRECT`, from a file that one thread changes.
fn direct(counter: &Counter) {
    let path = std::env::temp_dir().join(format!("memory-direct-{}", std::process::id()));
    let path = std::path::Path::new("/var/tmp").join(path.file_name().unwrap());
    let writer = File::create(&path).unwrap();
    let blocks = 256;
    let mut block = vec![0; PAGE_BYTES];
    let mut random = Random(19);
    for number in 0..blocks {
        block.fill(random.next() as u8);
        writer
            .write_all_at(&block, number * PAGE_BYTES as u64)
            .unwrap();
    }
    writer.sync_all().unwrap();
    let mut open = std::fs::OpenOptions::new();
    let reader = open
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    let pages = 1024;
    let memory = map(pages * PAGE_BYTES, 0);
    while going_on() {
        let (from, to) = (random.below(blocks - 16), random.below(pages as u64 - 16));
        // SAFETY: within the mapping, and aligned.
        let read = unsafe {
            libc::pread(
                reader.as_raw_fd(),
                memory.add(to as usize * PAGE_BYTES).cast(),
                16 * PAGE_BYTES,
                (from * PAGE_BYTES as u64) as i64,
            )
        };
        assert_eq!(read, 16 * PAGE_BYTES as isize);
        counter.count();
    }
}

/// Becomes itself again and again.
fn execs(counter: &Counter) {
    let pages = MIB / PAGE_BYTES;
    let (memory, mut known) = (map(MIB, 0), vec![0; pages]);
    let mut random = Random(counter.get(0) | 1);
    while going_on() {
        scribble(memory, pages, &mut random, &mut known, 200);
        counter.count();
        if random.below(300) == 0 {
            use std::os::unix::process::CommandExt;
            let mut again = std::process::Command::new("/proc/self/exe");
            again.args(["--exact", "parts", "--nocapture", "--test-threads=1"]);
            panic!("{}", again.exec());
        }
    }
}

fn abilities(kind: Kind) -> Option<Abilities> {
    let all = Abilities::of_this_kernel();
    match kind {
        Kind::Hashes => Some(Abilities {
            protection: false,
            ..all
        }),
        Kind::Protection if !all.protection => {
            eprintln!("skipped: this kernel cannot do it: {all:?}");
            None
        }
        Kind::Protection => Some(all),
    }
}

/// Rounds while a part runs, a frozen one, and the comparison. Returns how its first process was followed.
fn nothing_is_lost(part: &str, kind: Kind) -> Option<Kind> {
    let (cgroup, abilities) = (Cgroup::new()?, abilities(kind)?);
    let part = Part::start(&cgroup, "parts", part);
    let mut receiver = Receiver::default();
    let mut source = Source::new(&cgroup.0, part.pid(), abilities);
    for _ in 0..ROUNDS {
        source.round(&mut |run| receiver.take(run)).unwrap();
        part.progress();
    }
    cgroup.freeze();
    let mut take = |run: &Run<'_>| receiver.take(run);
    source.before_the_dump(&mut take).unwrap();
    let last = source.last_round(&mut take).unwrap();
    let followed = source.ways().next().map(|way| {
        if let Some(doubt) = way.doubt {
            eprintln!("{doubt}");
        }
        way.kind
    });
    let compare = || {
        let processes = process::of_cgroup(&cgroup.0, part.pid()).unwrap();
        assert!(!processes.is_empty());
        let compared = processes.values().map(|process| {
            let (different, same) = receiver.differences(process.pid, process.inside);
            (different.len(), same)
        });
        compared.fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    };
    let (different, same) = compare();
    eprintln!("{same} pages are the same, {last:?}");
    assert_eq!(different, 0, "of {} pages", same);
    // A program that has only just begun has few.
    assert!(same > 0);
    assert_eq!(last.unread_pages, 0);
    // The comparison would have found a change. Several turns: what went on meanwhile may have been children that have
    // ended since, or the end of what had been written before.
    support::until("the comparison finds a change", || {
        cgroup.thaw();
        part.progress();
        cgroup.freeze();
        compare().0 != 0
    });
    cgroup.thaw();
    drop(source);
    part.progress();
    part.end_well();
    followed
}

/// Both ways, and the second must really be the one that is asked for.
fn nothing_is_lost_either_way(part: &str) {
    if let Some(kind) = nothing_is_lost(part, Kind::Hashes) {
        assert_eq!(kind, Kind::Hashes);
    }
    if let Some(kind) = nothing_is_lost(part, Kind::Protection) {
        assert_eq!(kind, Kind::Protection);
    }
}

#[test]
fn threads_that_write() {
    nothing_is_lost_either_way("threads");
}

#[test]
fn processes_that_fork() {
    nothing_is_lost_either_way("forks");
}

#[test]
fn memory_that_moves_and_is_thrown_away() {
    nothing_is_lost_either_way("moves");
}

#[test]
fn huge_pages() {
    nothing_is_lost_either_way("huge");
}

#[test]
fn the_kernel_that_writes() {
    nothing_is_lost_either_way("kernel");
}

#[test]
fn a_program_that_replaces_itself() {
    nothing_is_lost("execs", Kind::Hashes);
    nothing_is_lost("execs", Kind::Protection);
}

#[test]
fn a_device_that_writes() {
    nothing_is_lost("direct", Kind::Hashes);
    // Asked for in vain: the kernel does not see what it writes.
    if let Some(kind) = nothing_is_lost("direct", Kind::Protection) {
        assert_eq!(kind, Kind::Hashes);
    }
}
