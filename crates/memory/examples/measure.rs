//! How long the frozen pass over idle memory takes, what following costs at its begin, and what a process that writes
//! notices. Run as root: `cargo run --release -p memory --example measure [MIB]`.

use std::hint::black_box;
use std::io::Write;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use memory::PAGE_BYTES;
use memory::source::Source;
use memory::tracker::Abilities;

const MIB: usize = 1 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [idle, mib] if idle == "idle" => hold(mib.parse().unwrap()),
        [write, mib, path] if write == "write" => scribble(mib.parse().unwrap(), path),
        [] => measure(1024),
        [mib] => measure(mib.parse().unwrap()),
        _ => panic!("usage: measure [MIB]"),
    }
}

/// Memory in which no two pages are the same.
fn fill(mib: usize) -> Vec<u64> {
    let mut state = 88_172_645_463_325_252_u64;
    let words = (0..mib * MIB / 8).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.collect()
}

fn hold(mib: usize) {
    let memory = fill(mib);
    println!();
    std::thread::sleep(Duration::from_secs(600));
    black_box(memory);
}

/// Writes all pages in turn, and tells in a file how many in each tenth of a second, and in how much processor time.
fn scribble(mib: usize, path: &str) {
    let mut memory = fill(mib);
    let mut out = std::fs::File::create(path).unwrap();
    println!();
    loop {
        let (begin, cpu, mut pages) = (Instant::now(), cpu_ms(), 0_u64);
        while begin.elapsed() < Duration::from_millis(100) {
            for page in 0..256 {
                let at = (pages as usize + page) * PAGE_BYTES / 8 % memory.len();
                // As much work as a program does that writes 4 KiB.
                for word in &mut memory[at..at + 512] {
                    *word = word.wrapping_mul(3);
                }
            }
            pages += 256;
        }
        writeln!(out, "{pages} {}", cpu_ms() - cpu).unwrap();
    }
}

fn start(arguments: &[&str]) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0];
    let stdout = child.stdout.as_mut().unwrap();
    std::io::Read::read_exact(stdout, &mut ready).unwrap();
    child
}

/// Processor time of this process so far.
fn cpu_ms() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure lives.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// A directory that names one process as a cgroup does.
fn cgroup(child: &Child) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("cgroup.procs");
    std::fs::write(list, child.id().to_string()).unwrap();
    directory
}

fn measure(mib: usize) {
    let protection = Abilities::of_this_kernel();
    let hashes = Abilities {
        protection: false,
        ..protection
    };
    println!("{mib} MiB; {protection:?}");
    for (name, abilities) in [("hashes", hashes), ("protection", protection)] {
        let mut child = start(&["idle", &mib.to_string()]);
        let directory = cgroup(&child);
        let mut source = Source::new(directory.path(), child.id() as i32, abilities);
        let report = |what: &str, begin: (Instant, f64), sent_pages: u64| {
            let ms = begin.0.elapsed().as_secs_f64() * 1e3;
            let cpu = cpu_ms() - begin.1;
            let sent = sent_pages * PAGE_BYTES as u64 / MIB as u64;
            println!("{name}: {what}: {ms:.1} ms, {cpu:.1} ms of processor time, {sent} MiB sent");
        };
        for what in ["first round", "second round"] {
            let begin = (Instant::now(), cpu_ms());
            let round = source.round(&mut |_| Ok(())).unwrap();
            report(what, begin, round.sent_pages);
        }
        for _ in 0..3 {
            let begin = (Instant::now(), cpu_ms());
            source.before_the_dump(&mut |_| Ok(())).unwrap();
            let round = source.last_round(&mut |_| Ok(())).unwrap();
            report("frozen pass", begin, round.sent_pages);
        }
        let begin = (Instant::now(), cpu_ms());
        drop(source);
        report("end", begin, 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for (name, abilities) in [("hashes", hashes), ("protection", protection)] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let mut child = start(&["write", &mib.to_string(), path]);
        let directory = cgroup(&child);
        // Pages per second over a time. Faults are part of its processor time; other programs are not.
        let speed = |what: &str, work: &mut dyn FnMut()| {
            let counts = || std::fs::read_to_string(path).unwrap();
            let before = counts().lines().count();
            work();
            let text = counts();
            let tenths = text.lines().skip(before).map(|line| {
                let (pages, ms) = line.split_once(' ').unwrap();
                (pages.parse::<f64>().unwrap(), ms.parse::<f64>().unwrap())
            });
            let (pages, ms) = tenths.fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d));
            let mib = pages / 256.0 / ms * 1e3;
            println!("{name}: writing {what}: {mib:.0} MiB in a second of its processor time");
        };
        speed("undisturbed", &mut || {
            std::thread::sleep(Duration::from_secs(2))
        });
        let mut source = Source::new(directory.path(), child.id() as i32, abilities);
        speed("during rounds", &mut || {
            let begin = Instant::now();
            let mut rounds = 0;
            while begin.elapsed() < Duration::from_secs(3) {
                source.round(&mut |_| Ok(())).unwrap();
                rounds += 1;
            }
            println!("{name}: {rounds} rounds");
        });
        drop(source);
        speed("afterwards", &mut || {
            std::thread::sleep(Duration::from_secs(2))
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
