//! A container that is followed does not notice, and nothing of it stays, however it ends.

mod support;

use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use memory::PAGE_BYTES;
use memory::process;
use memory::source::Source;
use memory::tracker::{Abilities, Kind};

use self::support::{Cgroup, Counter, PART, Part, Random, map, until};

/// Where the part that follows finds the cgroup and its first process.
const CGROUP: &str = "MEMORY_TEST_CGROUP";
const FIRST: &str = "MEMORY_TEST_FIRST";

/// What a part found wrong, as a number in its counter.
const WRONG: usize = 1;

#[test]
fn parts() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    match part.as_str() {
        "waits" => waits(&Counter::of_this_part()),
        "computes" => computes(&Counter::of_this_part()),
        "filtered" => filtered(&Counter::of_this_part()),
        "borrows" => borrows(&Counter::of_this_part()),
        "follows" => follows(),
        other => panic!("no part {other}"),
    }
}

/// Threads that wait in each of the ways in which the kernel goes on after an interruption.
fn waits(counter: &Counter) -> ! {
    let wrong = |what: bool| counter.add(WRONG, u64::from(what));
    std::thread::scope(|scope| {
        // ERESTART_RESTARTBLOCK: the rest of the time, not all of it and not none.
        scope.spawn(|| {
            loop {
                let (begin, time) = (Instant::now(), Duration::from_millis(30));
                let pause = libc::timespec {
                    tv_sec: 0,
                    tv_nsec: time.as_nanos() as i64,
                };
                // SAFETY: a null pointer is allowed for the rest.
                let slept = unsafe { libc::nanosleep(&pause, std::ptr::null_mut()) };
                wrong(slept != 0 || begin.elapsed() < time);
                counter.count();
            }
        });
        // ERESTARTSYS: a byte through a pipe.
        scope.spawn(|| {
            let mut ends = [0; 2];
            // SAFETY: room for two.
            unsafe { libc::pipe(ends.as_mut_ptr()) };
            let writer = ends[1];
            scope.spawn(move || {
                for byte in (0..=255_u8).cycle() {
                    std::thread::sleep(Duration::from_millis(2));
                    // SAFETY: one byte.
                    unsafe { libc::write(writer, (&raw const byte).cast(), 1) };
                }
            });
            for expected in (0..=255_u8).cycle() {
                let mut byte = 0_u8;
                // SAFETY: one byte.
                let read = unsafe { libc::read(ends[0], (&raw mut byte).cast(), 1) };
                wrong(read != 1 || byte != expected);
                counter.count();
            }
        });
        // Floating point numbers and all registers that a compiler uses.
        scope.spawn(|| {
            loop {
                let sum: f64 = (1..100_000).map(|n| 1.0 / f64::from(n)).sum();
                wrong(sum.to_bits() != std::hint::black_box(SUM).to_bits());
            }
        });
    });
    unreachable!()
}

/// The sum of 1/n below 100,000 as this order of additions gives it.
const SUM: f64 = {
    let (mut sum, mut n) = (0.0, 1);
    while n < 100_000 {
        sum += 1.0 / n as f64;
        n += 1;
    }
    sum
};

/// A thread that hardly ever calls the kernel.
fn computes(counter: &Counter) -> ! {
    let pages = 1024;
    let memory = map(pages * PAGE_BYTES, 0).cast::<u64>();
    let (mut random, mut known) = (Random(5), vec![0; pages]);
    loop {
        let page = random.below(pages as u64) as usize;
        // SAFETY: within the mapping.
        unsafe {
            let word = memory.add(page * PAGE_BYTES / 8);
            counter.add(WRONG, u64::from(word.read_volatile() != known[page]));
            known[page] = random.next();
            word.write_volatile(known[page]);
        }
        counter.count();
    }
}

/// A process that is killed if it calls userfaultfd(2) or close(2).
fn filtered(counter: &Counter) -> ! {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        // struct seccomp_data begins with the number of the call.
        step(LOAD, 0, 0, 0),
        step(EQUAL, 1, 0, libc::SYS_userfaultfd as u32),
        step(EQUAL, 0, 1, libc::SYS_close as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: a program as seccomp(2) describes it.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &program), 0);
    }
    loop {
        std::thread::sleep(Duration::from_millis(1));
        counter.count();
    }
}

/// Children that have their parent's memory until they replace it.
fn borrows(counter: &Counter) -> ! {
    loop {
        let script = "sleep 0.05";
        let status = Command::new("/bin/sh").args(["-c", script]).status();
        counter.add(
            WRONG,
            u64::from(!status.is_ok_and(|status| status.success())),
        );
        // As vfork(2) does, but on a stack of its own.
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let stack = map(STACK_BYTES, 0).wrapping_add(STACK_BYTES);
        // SAFETY: the child only sleeps and ends, on a stack that is there until it has.
        unsafe {
            let child = libc::clone(nap, stack.cast(), flags, std::ptr::null_mut());
            counter.add(WRONG, u64::from(child < 0));
            libc::waitpid(child, std::ptr::null_mut(), 0);
            libc::munmap(stack.sub(STACK_BYTES).cast(), STACK_BYTES);
        }
        counter.count();
    }
}

const STACK_BYTES: usize = 64 * 1024;

extern "C" fn nap(_: *mut libc::c_void) -> i32 {
    // SAFETY: no pointers are passed.
    unsafe {
        libc::usleep(20_000);
        libc::_exit(0)
    }
}

/// Follows again and again, until it is killed.
fn follows() -> ! {
    let cgroup = std::env::var_os(CGROUP).unwrap();
    let first: i32 = std::env::var(FIRST).unwrap().parse().unwrap();
    loop {
        let mut source = Source::new(cgroup.as_ref(), first, Abilities::of_this_kernel());
        for _ in 0..2 {
            source.round(&mut |_| Ok(())).unwrap();
        }
    }
}

/// Whether following works here; else the test is skipped, and says so.
fn abilities() -> Option<Abilities> {
    let abilities = Abilities::of_this_kernel();
    if !abilities.protection {
        eprintln!("skipped: this kernel cannot do it: {abilities:?}");
    }
    Some(abilities).filter(|abilities| abilities.protection)
}

/// Nothing is wrong, and the process is as one that was never followed.
fn is_as_before(part: &Part) {
    part.progress();
    assert_eq!(
        part.counter.get(WRONG),
        0,
        "something went wrong in the process"
    );
    let file = |name: &str| format!("/proc/{}/{name}", part.pid());
    until("nothing is registered", || {
        let maps = std::fs::read_to_string(file("smaps")).unwrap();
        let mut flags = maps
            .lines()
            .filter_map(|line| line.strip_prefix("VmFlags:"));
        !flags.any(|flags| flags.split(' ').any(|flag| flag == "uw" || flag == "um"))
    });
    until("nobody traces it", || {
        let tasks = std::fs::read_dir(file("task")).unwrap().flatten();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok())
            .all(|status| status.contains("\nTracerPid:\t0\n"))
    });
    for entry in std::fs::read_dir(file("fd")).unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        assert!(!target.to_string_lossy().contains("userfaultfd"));
    }
}

fn follow(part: &str) {
    let (Some(cgroup), Some(abilities)) = (Cgroup::new(), abilities()) else {
        return;
    };
    let part = Part::start(&cgroup, "parts", part);
    for _ in 0..20 {
        let mut source = Source::new(&cgroup.0, part.pid(), abilities);
        let round = source.round(&mut |_| Ok(())).unwrap();
        assert!(round.sent_pages > 0);
        let way = source.ways().next().unwrap();
        assert_eq!(way.kind, Kind::Protection, "{:?}", way.doubt);
        // It is really followed.
        let maps = std::fs::read_to_string(format!("/proc/{}/smaps", part.pid())).unwrap();
        assert!(maps.contains(" uw "), "nothing is registered");
        drop(source);
        part.progress();
    }
    is_as_before(&part);
}

#[test]
fn a_process_that_waits_goes_on_waiting() {
    follow("waits");
}

#[test]
fn a_process_that_computes_goes_on() {
    follow("computes");
}

#[test]
fn a_filter_of_system_calls_kills_nobody() {
    follow("filtered");
}

#[test]
fn memory_that_is_borrowed_is_counted_once() {
    let (Some(cgroup), Some(abilities)) = (Cgroup::new(), abilities()) else {
        return;
    };
    let part = Part::start(&cgroup, "parts", "borrows");
    let mut seen = 0;
    until("a child with its parent's memory was seen", || {
        let found = process::of_cgroup(&cgroup.0, part.pid()).unwrap();
        let list = std::fs::read_to_string(cgroup.0.join("cgroup.procs")).unwrap();
        assert!(found.values().any(|process| process.pid == part.pid()));
        // One that has just been listed may have ended by the time that it was looked at.
        seen += usize::from(list.lines().count() > 1 && found.len() == 1);
        seen > 20
    });
    let mut source = Source::new(&cgroup.0, part.pid(), abilities);
    for _ in 0..20 {
        source.round(&mut |_| Ok(())).unwrap();
    }
    drop(source);
    is_as_before(&part);
}

#[test]
fn a_process_that_is_stopped_is_left_alone() {
    let (Some(cgroup), Some(abilities)) = (Cgroup::new(), abilities()) else {
        return;
    };
    let part = Part::start(&cgroup, "parts", "computes");
    // SAFETY: no pointers are passed.
    unsafe { libc::kill(part.pid(), libc::SIGSTOP) };
    let state = || std::fs::read_to_string(format!("/proc/{}/status", part.pid())).unwrap();
    until("it has stopped", || state().contains("State:\tT"));
    let mut source = Source::new(&cgroup.0, part.pid(), abilities);
    source.round(&mut |_| Ok(())).unwrap();
    assert_eq!(source.ways().next().unwrap().kind, Kind::Hashes);
    assert!(state().contains("State:\tT"));
    drop(source);
    // SAFETY: no pointers are passed.
    unsafe { libc::kill(part.pid(), libc::SIGCONT) };
    is_as_before(&part);
}

/// Kills what follows at any moment: while it makes the process open a userfaultfd, while it registers, protects or reads.
fn killed(part: &str) {
    let (Some(cgroup), Some(_)) = (Cgroup::new(), abilities()) else {
        return;
    };
    let part = Part::start(&cgroup, "parts", part);
    let mut random = Random(23);
    for _ in 0..60 {
        let mut follower: Child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "parts", "--nocapture", "--test-threads=1"])
            .env(PART, "follows")
            .env(CGROUP, &cgroup.0)
            .env(FIRST, part.pid().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Once it runs, any moment is as good as another.
        let mut started = libc::pollfd {
            fd: follower.stdout.as_ref().unwrap().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure.
        unsafe { libc::poll(&mut started, 1, 10_000) };
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        follower.kill().unwrap();
        follower.wait().unwrap();
        is_as_before(&part);
    }
}

#[test]
fn a_killed_agent_harms_no_process_that_waits() {
    killed("waits");
}

#[test]
fn a_killed_agent_harms_no_process_that_computes() {
    killed("computes");
}
