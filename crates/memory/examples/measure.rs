//! How long the frozen pass over idle memory takes, what following costs at its begin, and what a process that writes
//! notices. Run as root: `cargo run --release -p memory --example measure [MIB]`.

use std::hint::black_box;
use std::io::{BufRead, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use memory::PAGE_BYTES;
use memory::source::Source;
use memory::tracker::Abilities;

const MIB: usize = 1 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [idle, mib] if idle == "idle" => hold(mib.parse().unwrap()),
        [part, mib] if part == "write" => write(mib.parse().unwrap()),
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

/// Whenever it is asked to, writes one word of each page and says how much processor time it took.
fn write(mib: usize) {
    let mut memory = fill(mib);
    println!();
    for _ in std::io::stdin().lines() {
        let before = cpu_ms();
        for word in memory.iter_mut().step_by(PAGE_BYTES / 8) {
            *word = word.wrapping_mul(3);
        }
        println!("{}", cpu_ms() - before);
    }
}

fn start(arguments: &[&str]) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
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
        let mut child = start(&["write", &mib.to_string()]);
        let mut stdin = child.stdin.take().unwrap();
        let mut answers = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut write = |what: &str| {
            writeln!(stdin).unwrap();
            let ms: f64 = answers.next().unwrap().unwrap().parse().unwrap();
            let us = ms * 1e3 / (mib * MIB / PAGE_BYTES) as f64;
            println!("{name}: a write to each page {what}: {ms:.1} ms, {us:.3} us each");
        };
        let directory = cgroup(&child);
        write("before");
        let mut source = Source::new(directory.path(), child.id() as i32, abilities);
        for _ in 0..3 {
            source.round(&mut |_| Ok(())).unwrap();
            write("after a round, first");
            write("after a round, again");
        }
        drop(source);
        write("afterwards");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
