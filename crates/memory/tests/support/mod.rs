//! Processes that write, in a cgroup of their own, and a receiver to compare with them.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memory::PAGE_BYTES;
use memory::stream::Run;

/// Names the part that this executable plays when it was started by a test.
pub(crate) const PART: &str = "MEMORY_TEST_PART";
const COUNTER: &str = "MEMORY_TEST_COUNTER";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A cgroup of its own, gone with all that is in it when it is dropped.
pub(crate) struct Cgroup(pub(crate) PathBuf);

impl Cgroup {
    /// Nothing if the machine has no cgroup v2 freezer.
    pub(crate) fn new() -> Option<Cgroup> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let place = fields.next()?;
            (fields.next()? == "cgroup2").then_some(place)
        });
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("memory-test-{}-{number}", std::process::id());
        let path = Path::new(mount?).join(name);
        match fs::create_dir(&path) {
            Ok(()) => Some(Cgroup(path)),
            Err(error) => {
                eprintln!("skipped: {}: {error}", path.display());
                None
            }
        }
    }

    pub(crate) fn freeze(&self) {
        self.set(true);
    }

    pub(crate) fn thaw(&self) {
        self.set(false);
    }

    fn set(&self, frozen: bool) {
        fs::write(self.0.join("cgroup.freeze"), if frozen { "1" } else { "0" }).unwrap();
        let wanted = format!("frozen {}", i32::from(frozen));
        until(&wanted, || {
            let events = fs::read_to_string(self.0.join("cgroup.events")).unwrap();
            events.lines().any(|line| line == wanted)
        });
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let _ = fs::write(self.0.join("cgroup.freeze"), "0");
        let begin = Instant::now();
        while fs::remove_dir(&self.0).is_err() && begin.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A counter that two processes share, without being private memory of either.
pub(crate) struct Counter(*const AtomicU64);

// SAFETY: an atomic number that is never unmapped.
unsafe impl Send for Counter {}
// SAFETY: as above.
unsafe impl Sync for Counter {}

impl Counter {
    fn of(file: &File) -> Counter {
        // SAFETY: a new mapping of a file of one page.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(memory, libc::MAP_FAILED);
        Counter(memory.cast())
    }

    /// That of a process that a test has started.
    pub(crate) fn of_this_part() -> Counter {
        let path = std::env::var_os(COUNTER).unwrap();
        Counter::of(&File::options().read(true).write(true).open(path).unwrap())
    }

    pub(crate) fn count(&self) {
        self.add(0, 1);
    }

    pub(crate) fn add(&self, number: usize, count: u64) {
        // SAFETY: within the page.
        unsafe { (*self.0.add(number)).fetch_add(count, Ordering::SeqCst) };
    }

    pub(crate) fn get(&self, number: usize) -> u64 {
        // SAFETY: within the page.
        unsafe { (*self.0.add(number)).load(Ordering::SeqCst) }
    }
}

/// This executable in another part.
pub(crate) struct Part {
    pub(crate) child: Child,
    pub(crate) counter: Counter,
    _file: tempfile::NamedTempFile,
}

impl Part {
    /// Starts the part `name` of the test function `of`, in `cgroup` from its first instruction on.
    pub(crate) fn start(cgroup: &Cgroup, of: &str, name: &str) -> Part {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        file.as_file().set_len(PAGE_BYTES as u64).unwrap();
        let mut command = Command::new("/bin/sh");
        let script = r#"echo 0 > "$1/cgroup.procs" && shift && exec "$@""#;
        command
            .args(["-c", script, "sh"])
            .arg(&cgroup.0)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", of, "--nocapture", "--test-threads=1"])
            .env(PART, name)
            .env(COUNTER, file.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let part = Part {
            child,
            counter: Counter::of(file.as_file()),
            _file: file,
        };
        part.progress();
        part
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits until it has done something again.
    pub(crate) fn progress(&self) {
        let before = self.counter.get(0);
        until("the process goes on", || {
            assert!(!self.has_ended(), "it has ended");
            self.counter.get(0) >= before + 2
        });
    }

    fn has_ended(&self) -> bool {
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: the structure lives, and all zero is a value of it.
        unsafe {
            let mut information: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, self.child.id(), &mut information, options);
            information.si_pid() != 0
        }
    }

    /// Ends it, and fails unless it found all as it should be.
    pub(crate) fn end_well(mut self) {
        until("it ends", || {
            // Again and again: a program that replaces itself forgets.
            // SAFETY: no pointers are passed.
            unsafe { libc::kill(self.pid(), libc::SIGTERM) };
            self.has_ended()
        });
        let status = self.child.wait().unwrap();
        // A program that has only just begun has no handler yet.
        let well = status.code() == Some(0) || status.signal() == Some(libc::SIGTERM);
        assert!(well, "{status}");
    }
}

/// What arrived, by process and page.
#[derive(Default)]
pub(crate) struct Receiver(HashMap<(u32, u64), Option<Box<[u8]>>>);

impl Receiver {
    pub(crate) fn take(&mut self, run: &Run<'_>) -> std::io::Result<()> {
        for page in 0..u64::from(run.pages) {
            let address = run.address + page * PAGE_BYTES as u64;
            let content = run.content.map(|content| {
                let at = page as usize * PAGE_BYTES;
                content[at..at + PAGE_BYTES].into()
            });
            self.0.insert((run.process, address), content);
        }
        Ok(())
    }

    /// The pages of a frozen process that it does not have as they are, and how many it has.
    ///
    /// Reads the process in another way than the library does: page by page, from /proc/PID/pagemap.
    pub(crate) fn differences(&self, pid: i32, inside: u32) -> (Vec<u64>, u64) {
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
        let pagemap = File::open(format!("/proc/{pid}/pagemap")).unwrap();
        let mut memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let flags = File::open("/proc/kpageflags").unwrap();
        let (mut different, mut same) = (Vec::new(), 0);
        let mut last: Option<(u64, u64)> = None;
        let mut ranges = Vec::new();
        for line in smaps.lines() {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if let Some(vm_flags) = line.strip_prefix("VmFlags:") {
                let locked = vm_flags.split(' ').any(|flag| flag == "lo");
                ranges.extend(last.take().filter(|_| !locked));
            } else if let Some((begin, end)) = fields[0].split_once('-') {
                let number = |text| u64::from_str_radix(text, 16).unwrap();
                let special = fields.get(5).is_some_and(|name| name.starts_with("[v"));
                let lazy = fields[1].ends_with('p') && fields[4] == "0" && !special;
                last = lazy.then(|| (number(begin), number(end)));
            }
        }
        let mut page = vec![0; PAGE_BYTES];
        for address in ranges
            .into_iter()
            .flat_map(|(begin, end)| (begin..end).step_by(PAGE_BYTES))
        {
            let mut entry = [0; 8];
            if pagemap
                .read_at(&mut entry, address / PAGE_BYTES as u64 * 8)
                .unwrap()
                == 0
            {
                continue;
            }
            let entry = u64::from_le_bytes(entry);
            let (present, swapped, file) = (entry >> 63, entry >> 62 & 1, entry >> 61 & 1);
            if present | swapped == 0 || file == 1 {
                continue;
            }
            if present == 1 {
                const ZERO_PAGE: u64 = 1 << 24;
                let (mut kinds, frame) = ([0; 8], entry & ((1 << 55) - 1));
                flags.read_exact_at(&mut kinds, frame * 8).unwrap();
                if u64::from_le_bytes(kinds) & ZERO_PAGE != 0 {
                    continue;
                }
            }
            memory.seek(SeekFrom::Start(address)).unwrap();
            memory.read_exact(&mut page).unwrap();
            let received = match self.0.get(&(inside, address)) {
                Some(Some(content)) => **content == *page,
                Some(None) => page.iter().all(|byte| *byte == 0),
                None => false,
            };
            match received {
                true => same += 1,
                false => different.push(address),
            }
        }
        (different, same)
    }
}

/// New private memory.
pub(crate) fn map(bytes: usize, flags: i32) -> *mut u8 {
    // SAFETY: a new mapping.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    assert_ne!(memory, libc::MAP_FAILED);
    memory.cast()
}

/// Numbers that look random, the same each time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
