//! A counter that keeps its files open: one locked, one without a name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use workloads::{counter, process};

/// Answers each line with the next number, and writes it to two open files.
#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:9000")]
    listen: SocketAddr,

    /// The file that each number is appended to; it stays open and locked (flock).
    #[arg(long, default_value = "/data/count")]
    file: PathBuf,
}

fn main() -> Result<()> {
    let options = Options::parse();
    process::exit_on_signals()?;

    let mut files =
        Files::open(&options.file).with_context(|| format!("open {}", options.file.display()))?;
    counter::serve(options.listen, move || files.next())
}

struct Files {
    path: PathBuf,
    /// Every number, one per line. Locked.
    named: File,
    /// Only the last number. Removed while open.
    unnamed: File,
    count: u64,
}

/// Bytes per number in the named file.
const RECORD: u64 = 21;

impl Files {
    fn open(path: &Path) -> Result<Self> {
        let named = OpenOptions::new().create(true).append(true).open(path)?;
        named.try_lock()?;
        let count = named.metadata()?.len() / RECORD;

        let temporary = path.with_extension("tmp");
        let unnamed = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&temporary)?;
        std::fs::remove_file(&temporary)?;
        unnamed.write_all_at(&count.to_be_bytes(), 0)?;

        Ok(Self {
            path: path.to_owned(),
            named,
            unnamed,
            count,
        })
    }

    fn next(&mut self) -> Result<u64> {
        self.check()?;
        self.count += 1;
        writeln!(self.named, "{:020}", self.count)?;
        self.unnamed.write_all_at(&self.count.to_be_bytes(), 0)?;
        Ok(self.count)
    }

    /// Checks that both files are as the last call left them.
    fn check(&self) -> Result<()> {
        let held = self.named.metadata()?;
        ensure!(
            held.len() == self.count * RECORD,
            "the open file has {} bytes after {} numbers",
            held.len(),
            self.count
        );

        let named = File::open(&self.path).context("the file's name is gone")?;
        ensure!(
            named.metadata()?.ino() == held.ino(),
            "the name leads to another file than the open one"
        );
        ensure!(
            matches!(named.try_lock(), Err(TryLockError::WouldBlock)),
            "the lock is gone"
        );

        let mut last = [0; 8];
        self.unnamed.read_exact_at(&mut last, 0)?;
        ensure!(
            u64::from_be_bytes(last) == self.count,
            "the unnamed file holds another number"
        );
        Ok(())
    }
}
