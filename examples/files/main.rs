//! An echo server with many files, which it reads over and over.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use workloads::echo::Server;
use workloads::process::Stop;

/// Writes files, then echoes numbered frames and keeps checking the files.
#[derive(Parser)]
struct Options {
    /// Where to listen once the files are written.
    #[arg(long, default_value = "0.0.0.0:7000")]
    listen: SocketAddr,

    /// A directory, and how many MiB of files to write there.
    #[arg(long, value_name = "DIRECTORY=MIB", value_parser = parse_fill)]
    fill: Vec<(PathBuf, u64)>,
}

fn parse_fill(text: &str) -> Result<(PathBuf, u64), String> {
    let (directory, size) = text.split_once('=').ok_or("an = is missing")?;
    let size = size.parse().map_err(|e| format!("{size:?}: {e}"))?;
    Ok((directory.into(), size))
}

const MIB: u64 = 1 << 20;
/// Size of a file; the last one in a directory may be smaller.
const LARGEST: u64 = 64 * MIB;
const PAGE: usize = 4096;

/// A file that was written, and the seed of its content.
struct Written {
    path: PathBuf,
    pages: u64,
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let stop = Stop::on_signals()?;
    let mut files = Vec::new();
    for (directory, mib) in &options.fill {
        fill(directory, mib * MIB, &mut files)?;
    }
    let server = Server::start(options.listen)?;
    eprintln!("{} files, listening on {}", files.len(), server.address);
    thread::spawn(move || watch(&files));
    stop.wait(None);
    Ok(())
}

/// Writes files of `size` bytes in all.
fn fill(directory: &Path, size: u64, files: &mut Vec<Written>) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let mut left = size;
    while left > 0 {
        let seed = files.len() as u64;
        let file = Written {
            path: directory.join(format!("file-{seed}")),
            pages: left.min(LARGEST) / PAGE as u64,
            seed,
        };
        file.write()
            .with_context(|| file.path.display().to_string())?;
        left -= left.min(LARGEST);
        files.push(file);
    }
    Ok(())
}

impl Written {
    fn write(&self) -> std::io::Result<()> {
        let mut file = BufWriter::with_capacity(MIB as usize, File::create(&self.path)?);
        for number in 0..self.pages {
            file.write_all(&page(self.seed, number))?;
        }
        file.flush()
    }

    /// Checks the file's size and one of its pages.
    fn check(&self, number: u64) -> anyhow::Result<()> {
        let number = number % self.pages;
        let file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        ensure!(
            length == self.pages * PAGE as u64,
            "{length} bytes where {} pages were written",
            self.pages
        );
        let mut read = [0; PAGE];
        file.read_exact_at(&mut read, number * PAGE as u64)?;
        ensure!(
            read == page(self.seed, number),
            "page {number} is not what was written"
        );
        Ok(())
    }
}

/// The content of a page: numbers that do not compress (SplitMix64, by Steele, Lea and Flood).
fn page(seed: u64, number: u64) -> [u8; PAGE] {
    let mut state = (seed << 32) ^ (number << 9);
    let mut bytes = [0; PAGE];
    for word in bytes.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes
}

/// Checks one page of each file every second, a different one each time.
fn watch(files: &[Written]) {
    let start = Instant::now();
    for round in 0.. {
        for file in files {
            if let Err(error) = file.check(round) {
                let after = start.elapsed().as_secs();
                eprintln!("BROKEN {} after {after} s: {error:#}", file.path.display());
            }
        }
        thread::sleep(Duration::from_secs(1));
    }
}
