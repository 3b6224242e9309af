//! Connections that are closed in one direction, or that wait to be accepted.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use workloads::process;

/// Time between two lines.
const PACE: Duration = Duration::from_millis(10);

/// Talks on connections that are closed in the other direction.
///
/// On one port it reads a number until the client closes its half, and then writes the numbers up to
/// that, one line every 10 ms. On the other it closes its own half at once and reads lines, which
/// must be the numbers from 1; it prints how many there were, or BROKEN and why.
#[derive(Parser)]
struct Options {
    /// The port on which clients only listen.
    #[arg(long, default_value = "0.0.0.0:7000")]
    write: SocketAddr,

    /// The port on which clients only talk.
    #[arg(long, default_value = "0.0.0.0:7001")]
    read: SocketAddr,

    /// Milliseconds before each connection is accepted.
    #[arg(long, default_value_t = 0)]
    accept_ms: u64,

    /// A file without which no connection is accepted.
    #[arg(long)]
    accept_after: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    process::exit_on_signals()?;
    let pause = Duration::from_millis(options.accept_ms);
    let (to_write, to_read) = (
        TcpListener::bind(options.write)?,
        TcpListener::bind(options.read)?,
    );
    eprintln!(
        "listening on {} and {}",
        to_write.local_addr()?,
        to_read.local_addr()?
    );
    let file = options.accept_after.clone();
    thread::spawn(move || serve(&to_write, pause, file.as_deref(), write_lines));
    serve(&to_read, pause, options.accept_after.as_deref(), read_lines);
    Ok(())
}

/// Gives each connection a thread.
fn serve(
    listener: &TcpListener,
    pause: Duration,
    file: Option<&Path>,
    talk: fn(TcpStream) -> Result<String>,
) {
    loop {
        thread::sleep(pause);
        while file.is_some_and(|file| !file.exists()) {
            thread::sleep(PACE);
        }
        let Ok((stream, peer)) = listener.accept() else {
            continue;
        };
        println!("{peer} accepted");
        thread::spawn(move || match talk(stream) {
            Ok(done) => println!("{peer} {done}"),
            Err(error) => println!("BROKEN {peer} {error:#}"),
        });
    }
}

/// The client's half is closed.
fn write_lines(mut stream: TcpStream) -> Result<String> {
    let mut asked = String::new();
    let mut source = BufReader::new(stream.try_clone()?);
    source.read_line(&mut asked)?;
    let rest = source.read_line(&mut String::new())?;
    ensure!(rest == 0, "the client says more than a number");
    let most: u64 = asked.trim().parse().context("not a number")?;
    for number in 1..=most {
        writeln!(stream, "{number}")?;
        thread::sleep(PACE);
    }
    Ok(format!("was written {most} lines"))
}

/// This half is closed.
fn read_lines(stream: TcpStream) -> Result<String> {
    stream.shutdown(Shutdown::Write)?;
    let mut count = 0_u64;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        count += 1;
        ensure!(
            line == count.to_string(),
            "{line} came where {count} was due"
        );
    }
    Ok(format!("wrote {count} lines"))
}
