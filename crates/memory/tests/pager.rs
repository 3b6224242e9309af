//! The pager against the kernel: processes whose memory is missing, as after a lazy restore, with the test
//! in CRIU's place. It forks where it has one thread only, so this is a program and no list of `#[test]`.

use std::io::{IoSlice, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::exit;

use memory::PAGE_BYTES as PAGE;
use memory::pager::{self, SOCKET, Sources};
use memory::protobuf::write_varint;
use memory::store::Store;
use memory::stream::{self, Run};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe};

/// Where the memory is.
const AT: usize = 0x5000_0000_0000;
const PAGES: usize = 40_000;
/// Number of the process in the images.
const PROCESS: u32 = 7;

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    for (name, test) in [
        ("everything is as it was", everything as fn()),
        ("what changes meanwhile", changes),
        ("one that is killed stops the rest", killed),
        ("a guardian that is killed is replaced", guardian_killed),
        ("a restore that does not begin", not_begun),
        ("a restore that does not end", not_ended),
    ] {
        print!("{name} ... ");
        std::io::stdout().flush().unwrap();
        test();
        println!("ok");
    }
}

/// Each page is known by its bytes; every fifth is zero.
fn byte_of(page: usize) -> u8 {
    match page % 5 {
        0 => 0,
        _ => (page % 251) as u8 | 1,
    }
}

struct Restore {
    dir: tempfile::TempDir,
    owner: OwnedFd,
    pager: Pid,
}

/// Fills a store and starts a pager for it.
fn restore() -> Restore {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut stream = Vec::new();
    for page in 0..PAGES {
        let content = vec![byte_of(page); PAGE];
        let run = Run {
            process: PROCESS,
            address: (AT + page * PAGE) as u64,
            pages: 1,
            content: (byte_of(page) != 0).then_some(&content),
        };
        stream::write(&run, &mut stream).unwrap();
    }
    let mut store = Store::new(dir.path().to_owned(), 1 << 30);
    store.feed(&mut stream.as_slice()).unwrap();
    let mut image = Vec::new();
    for magic in [0x5456_4319_u32, 0x5608_4025] {
        image.extend(magic.to_le_bytes());
    }
    let pages = [(1, AT as u64), (2, 0), (4, 2), (5, PAGES as u64)];
    for numbers in [&[(1, 1)][..], &pages] {
        let mut entry = Vec::new();
        for (field, value) in numbers {
            write_varint(&mut entry, field << 3);
            write_varint(&mut entry, *value);
        }
        image.extend((entry.len() as u32).to_le_bytes());
        image.extend(entry);
    }
    let name = format!("pagemap-{PROCESS}.img");
    std::fs::write(dir.path().join(name), image).unwrap();
    assert_eq!(store.prove(dir.path()).unwrap(), (PAGES * PAGE) as u64);

    let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
    let (theirs, owner) = pipe().unwrap();
    let ours = owner.as_raw_fd();
    let pager = child(|| {
        // SAFETY: the parent's end, of which this process must not have a copy.
        unsafe { libc::close(ours) };
        let sources = Sources {
            store: dir.path(),
            images: dir.path(),
        };
        let stop = || {
            std::fs::write(dir.path().join("stopped"), "").unwrap();
            while dir.path().exists() {
                std::thread::yield_now();
            }
        };
        match pager::serve(listener, theirs.as_fd(), sources, &stop) {
            Ok(summary) => {
                assert_eq!(summary.unmapped_bytes, 0);
                0
            }
            Err(error) => {
                std::fs::write(dir.path().join("error"), error.to_string()).unwrap();
                1
            }
        }
    });
    Restore { dir, owner, pager }
}

fn child(act: impl FnOnce() -> i32) -> Pid {
    // SAFETY: this program has one thread wherever it forks.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
            exit(result.unwrap_or(99));
        }
    }
}

fn assert_ends(process: Pid, status: i32) {
    let ended = waitpid(process, None).unwrap();
    assert_eq!(ended, WaitStatus::Exited(process, status));
}

/// Makes the memory of this process missing, as CRIU does, and tells the pager. Returns the connection.
fn miss(dir: &Path) -> UnixStream {
    #[repr(C)]
    struct Api {
        api: u64,
        features: u64,
        ioctls: u64,
    }
    #[repr(C)]
    struct Register {
        start: u64,
        bytes: u64,
        mode: u64,
        ioctls: u64,
    }
    nix::ioctl_readwrite!(api, 0xaa, 0x3f, Api);
    nix::ioctl_readwrite!(register, 0xaa, 0, Register);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: memory that nothing else is in; the descriptor is new.
    let uffd = unsafe {
        let memory = libc::mmap(AT as *mut _, PAGES * PAGE, protection, flags, -1, 0);
        assert_eq!(memory as usize, AT);
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let raw = libc::syscall(libc::SYS_userfaultfd, flags) as i32;
        assert!(raw >= 0, "{}", std::io::Error::last_os_error());
        let uffd = OwnedFd::from_raw_fd(raw);
        let mut wanted = Api {
            api: 0xaa,
            // Fork, remap, remove and unmap.
            features: 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6,
            ioctls: 0,
        };
        api(raw, &mut wanted).unwrap();
        let mut all = Register {
            start: AT as u64,
            bytes: (PAGES * PAGE) as u64,
            mode: 1,
            ioctls: 0,
        };
        register(raw, &mut all).unwrap();
        uffd
    };
    let mut criu = UnixStream::connect(dir.join(SOCKET)).unwrap();
    // A dead process first.
    criu.write_all(&(-5_i32).to_ne_bytes()).unwrap();
    criu.write_all(&PROCESS.to_ne_bytes()).unwrap();
    let descriptors = [uffd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let data = [IoSlice::new(&[0])];
    sendmsg::<()>(criu.as_raw_fd(), &data, &rights, MsgFlags::empty(), None).unwrap();
    criu
}

fn finish(mut criu: UnixStream) {
    criu.write_all(&0x5253_5446_u32.to_ne_bytes()).unwrap();
}

/// The first and the last byte of a page.
fn ends_of(address: usize) -> [u8; 2] {
    // SAFETY: the caller names memory of this process.
    let read = |address: usize| unsafe { std::ptr::read_volatile(address as *const u8) };
    [read(address), read(address + PAGE - 1)]
}

/// Whether pages are as they were, the first of which is now `at`.
fn check(pages: Range<usize>, at: usize) {
    for (page, address) in pages.zip((at..).step_by(PAGE)) {
        assert_eq!(ends_of(address), [byte_of(page); 2], "page {page}");
    }
}

fn check_zero(pages: Range<usize>) {
    for page in pages {
        assert_eq!(ends_of(AT + page * PAGE), [0; 2], "page {page}");
    }
}

fn everything() {
    let restore = restore();
    let restored = child(|| {
        let criu = miss(restore.dir.path());
        // Before CRIU has finished.
        check(3..4, AT + 3 * PAGE);
        finish(criu);
        std::thread::scope(|scope| {
            for quarter in 0..4 {
                let from = quarter * PAGES / 4;
                let pages = from..from + PAGES / 4;
                // Here and there, and then all.
                scope.spawn(move || {
                    for page in pages.clone().rev().step_by(97).chain(pages) {
                        check(page..page + 1, AT + page * PAGE);
                    }
                });
            }
        });
        0
    });
    assert_ends(restored, 0);
    assert_ends(restore.pager, 0);
    assert!(!restore.dir.path().join("stopped").exists());
    // What was put into the process takes no room any more, in units of 512 bytes.
    let file = restore.dir.path().join(format!("memory-{PROCESS}"));
    assert!(file.metadata().unwrap().blocks() < 8 * PAGES as u64 / 10);
}

fn changes() {
    let restore = restore();
    let dir = restore.dir.path();
    let restored = child(|| {
        let criu = miss(dir);
        let part = |pages: Range<usize>| {
            let bytes = pages.len() * PAGE;
            ((AT + pages.start * PAGE) as *mut libc::c_void, bytes)
        };
        // SAFETY: all of this is memory that only this test uses. Nothing is filled before CRIU has
        // finished, so all of it is missing still.
        unsafe {
            let (from, bytes) = part(1000..2000);
            assert_eq!(libc::madvise(from, bytes, libc::MADV_DONTNEED), 0);
            let (from, bytes) = part(2000..3000);
            assert_eq!(libc::munmap(from, bytes), 0);
            let (from, bytes) = part(3000..4000);
            let to = (AT * 2 / 3 / PAGE * PAGE) as *mut libc::c_void;
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            assert_eq!(libc::mremap(from, bytes, 2 * bytes, flags, to), to);
            // Divides the mapping.
            for page in (4001..5000).step_by(2) {
                let (from, bytes) = part(page..page + 1);
                assert_eq!(libc::mprotect(from, bytes, libc::PROT_READ), 0);
            }
            // Written before it is there.
            std::ptr::write_volatile((AT + 6001 * PAGE + 1) as *mut u8, 9);
        }
        let moved = AT * 2 / 3 / PAGE * PAGE;
        let forked = child(|| {
            check(0..1000, AT);
            check_zero(1000..2000);
            check(3000..4000, moved);
            check(4000..PAGES, AT + 4000 * PAGE);
            // SAFETY: as above.
            unsafe {
                let (from, bytes) = part(7000..8000);
                assert_eq!(libc::madvise(from, bytes, libc::MADV_DONTNEED), 0);
            }
            check_zero(7000..8000);
            let again = child(|| {
                check_zero(7000..8000);
                check(8000..9000, AT + 8000 * PAGE);
                0
            });
            assert_ends(again, 0);
            0
        });
        finish(criu);
        check_zero(1000..2000);
        check(3000..4000, moved);
        assert_eq!(ends_of(moved + 1500 * PAGE), [0; 2]);
        check(4000..PAGES, AT + 4000 * PAGE);
        // SAFETY: as above.
        let written = unsafe { std::ptr::read_volatile((AT + 6001 * PAGE + 1) as *const u8) };
        assert_eq!(written, 9);
        assert_ends(forked, 0);
        0
    });
    assert_ends(restored, 0);
    assert_ends(restore.pager, 0);
    assert!(!dir.join("stopped").exists());
}

fn killed() {
    let restore = restore();
    let dir = restore.dir.path();
    let restored = child(|| {
        let criu = miss(dir);
        check(3..4, AT + 3 * PAGE);
        std::fs::write(dir.join("read"), "").unwrap();
        // Not finished, so nothing is filled.
        while !dir.join("stopped").exists() {
            std::thread::yield_now();
        }
        check(20_001..20_002, AT + 20_001 * PAGE);
        drop(criu);
        0
    });
    wait_for(&dir.join("read"));
    kill(restore.pager, Signal::SIGKILL).unwrap();
    waitpid(restore.pager, None).unwrap();
    assert_ends_waiting(restored, dir);
}

/// The process waits for a page, since the guardian holds its userfaultfd.
fn assert_ends_waiting(restored: Pid, dir: &Path) {
    wait_for(&dir.join("stopped"));
    let waiting = || {
        let place = std::fs::read_to_string(format!("/proc/{restored}/wchan")).unwrap();
        place.contains("userfault")
    };
    while !waiting() {
        let running = waitpid(restored, Some(nix::sys::wait::WaitPidFlag::WNOHANG)).unwrap();
        assert_eq!(running, WaitStatus::StillAlive);
    }
    kill(restored, Signal::SIGKILL).unwrap();
    waitpid(restored, None).unwrap();
}

fn guardian_killed() {
    let restore = restore();
    let dir = restore.dir.path();
    let restored = child(|| {
        let criu = miss(dir);
        check(3..4, AT + 3 * PAGE);
        std::fs::write(dir.join("read"), "").unwrap();
        wait_for(&dir.join("go on"));
        finish(criu);
        check(0..PAGES, AT);
        0
    });
    wait_for(&dir.join("read"));
    let guardian = || {
        let children = format!("/proc/{0}/task/{0}/children", restore.pager);
        let children = std::fs::read_to_string(children).unwrap();
        let last = children.split_whitespace().next_back()?.parse().ok()?;
        Some(Pid::from_raw(last))
    };
    let first = guardian().unwrap();
    kill(first, Signal::SIGKILL).unwrap();
    while guardian().is_none_or(|now| now == first) {
        std::thread::yield_now();
    }
    std::fs::write(dir.join("go on"), "").unwrap();
    assert_ends(restored, 0);
    assert_ends(restore.pager, 0);
    assert!(!dir.join("stopped").exists());
}

fn not_begun() {
    let Restore { dir, owner, pager } = restore();
    drop(owner);
    assert_ends(pager, 1);
    let said = std::fs::read_to_string(dir.path().join("error")).unwrap();
    assert!(said.contains("given up"), "{said}");
}

fn not_ended() {
    let Restore { dir, owner, pager } = restore();
    let restored = child(|| {
        drop(miss(dir.path()));
        0
    });
    assert_ends(restored, 0);
    // Of no interest any more.
    drop(owner);
    assert_ends(pager, 1);
    let said = std::fs::read_to_string(dir.path().join("error")).unwrap();
    assert!(said.contains("has not finished"), "{said}");
    wait_for(&dir.path().join("stopped"));
}

fn wait_for(path: &Path) {
    while !path.exists() {
        std::thread::yield_now();
    }
}
