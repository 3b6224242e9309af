//! An echo server with much private memory, all of which can be checked.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use memmap2::MmapOptions;
use workloads::echo::Server;
use workloads::process::{Stop, identity};

/// Echoes numbered frames, and checks all its memory whenever somebody connects.
#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:7000")]
    listen: SocketAddr,

    /// Where somebody may connect who wants to hear whether the memory is whole.
    #[arg(long, default_value = "0.0.0.0:7001")]
    check: SocketAddr,

    /// Memory of each process, in MiB.
    #[arg(long, default_value_t = 64)]
    mib: usize,

    /// How much of it is written anew, over and over, in MiB.
    #[arg(long, default_value_t = 1)]
    hot_mib: usize,

    /// Address space that is never used, in GiB.
    #[arg(long, default_value_t = 0)]
    reserved_gib: usize,

    /// How many other processes.
    #[arg(long, default_value_t = 0)]
    others: usize,

    /// Be one of them: check whenever a line is read.
    #[arg(long, hide = true)]
    other: bool,
}

const PAGES_PER_MIB: usize = 256;
const WORDS: usize = 512;
/// Pages that are looked at or written while nobody else may.
const BATCH: usize = 256;
/// Pause between two batches that are written.
const PAUSE: Duration = Duration::from_millis(10);

/// Pages of words, each of which follows from the page's number and from how often it was written.
struct Ballast {
    seed: u64,
    pages: Vec<[u64; WORDS]>,
}

/// What a word of a page must be, if the page's first one is `version`.
fn word(seed: u64, page: usize, version: u64, at: usize) -> u64 {
    (seed ^ version.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add((page * WORDS + at) as u64)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl Ballast {
    fn new(mib: usize) -> Self {
        let seed = identity();
        let mut pages = vec![[0; WORDS]; mib * PAGES_PER_MIB];
        for (number, page) in pages.iter_mut().enumerate() {
            fill(page, seed, number, 0);
        }
        Ballast { seed, pages }
    }
}

fn fill(page: &mut [u64; WORDS], seed: u64, number: usize, version: u64) {
    for (at, to) in page.iter_mut().enumerate().skip(1) {
        *to = word(seed, number, version, at);
    }
    page[0] = version;
}

/// Writes the first pages anew for ever.
fn write(ballast: &Mutex<Ballast>, hot_pages: usize) {
    for version in 1.. {
        for first in (0..hot_pages).step_by(BATCH) {
            let mut ballast = ballast.lock().expect("not poisoned");
            let seed = ballast.seed;
            let last = (first + BATCH).min(hot_pages);
            for number in first..last {
                fill(&mut ballast.pages[number], seed, number, version);
            }
            drop(ballast);
            thread::sleep(PAUSE);
        }
    }
}

/// What is wrong, if anything.
fn check(ballast: &Mutex<Ballast>) -> String {
    let count = ballast.lock().expect("not poisoned").pages.len();
    for first in (0..count).step_by(BATCH) {
        let ballast = ballast.lock().expect("not poisoned");
        for number in first..(first + BATCH).min(count) {
            let page = &ballast.pages[number];
            let right = |at| page[at] == word(ballast.seed, number, page[0], at);
            if let Some(at) = (1..WORDS).find(|at| !right(*at)) {
                return format!("BROKEN: word {at} of page {number} of {count}");
            }
        }
    }
    format!("{count} pages are whole")
}

/// Another process, and the way to ask it.
struct Other {
    _process: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Other {
    fn start(options: &Options) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--other")
            .args(["--mib", &options.mib.to_string()])
            .args(["--hot-mib", &options.hot_mib.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start another process")?;
        let mut other = Other {
            ask: process.stdin.take().context("no pipe")?,
            answer: BufReader::new(process.stdout.take().context("no pipe")?),
            _process: process,
        };
        // Until it has its memory.
        other.check()?;
        Ok(other)
    }

    fn check(&mut self) -> io::Result<String> {
        self.ask.write_all(b"\n")?;
        let mut line = String::new();
        self.answer.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.other {
        let ballast = start(&options);
        for _ in io::stdin().lines() {
            println!("{}", check(&ballast));
        }
        return Ok(());
    }
    let stop = Stop::on_signals()?;
    let _reserved = match options.reserved_gib {
        0 => None,
        gib => Some(
            MmapOptions::new()
                .len(gib << 30)
                .no_reserve_swap()
                .map_anon()
                .context("reserve address space")?,
        ),
    };
    let ballast = start(&options);
    let others: Result<Vec<Other>> = (0..options.others)
        .map(|_| Other::start(&options))
        .collect();
    let mut others = others?;
    let asked = TcpListener::bind(options.check)?;
    let server = Server::start(options.listen)?;
    eprintln!("listening on {}", server.address);
    thread::spawn(move || {
        for mut connection in asked.incoming().flatten() {
            let mut answers = vec![check(&ballast)];
            for other in &mut others {
                answers.push(other.check().unwrap_or_else(|e| format!("BROKEN: {e}")));
            }
            // Whoever asked may have gone.
            let _ = writeln!(connection, "{}", answers.join("\n"));
        }
    });
    stop.wait(None);
    Ok(())
}

fn start(options: &Options) -> Arc<Mutex<Ballast>> {
    let ballast = Arc::new(Mutex::new(Ballast::new(options.mib)));
    let (written, hot_pages) = (
        ballast.clone(),
        options.hot_mib.min(options.mib) * PAGES_PER_MIB,
    );
    if hot_pages > 0 {
        thread::spawn(move || write(&written, hot_pages));
    }
    ballast
}
