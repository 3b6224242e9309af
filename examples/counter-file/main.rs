//! A counter that appends each number to a file, which it opens again each time.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;
use workloads::{counter, process};

/// Answers each line with the next number, and appends the number to a file.
#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:9000")]
    listen: SocketAddr,

    /// The file; a new process continues where it ends.
    #[arg(long, default_value = "/data/count")]
    file: PathBuf,
}

/// Bytes per number: the file's length tells how many numbers there are.
const RECORD: u64 = 21;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    process::exit_on_signals()?;

    let open = move || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&options.file)
            .with_context(|| format!("open {}", options.file.display()))
    };
    let mut count = open()?.metadata()?.len() / RECORD;
    counter::serve(options.listen, move || {
        let mut file = open()?;
        let length = file.metadata()?.len();
        ensure!(
            length == count * RECORD,
            "the file has {length} bytes after {count} numbers"
        );
        count += 1;
        writeln!(file, "{count:020}")?;
        Ok(count)
    })
}
