//! An echo server with a ring of processes.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use workloads::echo::Server;
use workloads::process::Stop;

/// Echoes numbered frames while a number goes round a ring of other processes.
#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:7000")]
    listen: SocketAddr,

    /// How many other processes.
    #[arg(long, default_value_t = 49, value_parser = clap::value_parser!(u64).range(1..))]
    others: u64,

    /// Be one of them: read numbers, add one, write them.
    #[arg(long, hide = true)]
    link: bool,
}

/// Pause between two rounds of the number.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a round may take; a freeze may fall into it.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let options = Options::parse();
    if options.link {
        return pass_on().context("a link of the ring");
    }
    let stop = Stop::on_signals()?;
    let others = start(options.others)?;
    let server = Server::start(options.listen)?;
    eprintln!(
        "{} processes, listening on {}",
        options.others + 1,
        server.address
    );

    let rounds = Arc::new(AtomicU64::new(0));
    let (count, length) = (rounds.clone(), options.others);
    thread::spawn(move || {
        if let Err(error) = go_around(others, length, &count) {
            eprintln!("BROKEN {error:#}");
        }
    });
    thread::spawn(move || watch(&rounds));
    stop.wait(None);
    Ok(())
}

/// The ends of the ring that this process holds.
struct Ring {
    first: std::process::ChildStdin,
    last: std::process::ChildStdout,
    _others: Vec<Child>,
}

/// Starts the others, each with its input from the previous one.
fn start(others: u64) -> Result<Ring> {
    let (mut first, mut last) = (None, None);
    let mut children = Vec::new();
    for _ in 0..others {
        let input = last.take().map_or(Stdio::piped(), Stdio::from);
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--link")
            .stdin(input)
            .stdout(Stdio::piped())
            .spawn()
            .context("start a process of the ring")?;
        first = first.or(child.stdin.take());
        last = child.stdout.take();
        children.push(child);
    }
    Ok(Ring {
        first: first.expect("the first one's input is a pipe"),
        last: last.expect("every output is a pipe"),
        _others: children,
    })
}

/// What each of the others does until its input ends.
fn pass_on() -> io::Result<()> {
    let mut number = [0; 8];
    while io::stdin().read_exact(&mut number).is_ok() {
        let next = u64::from_be_bytes(number) + 1;
        io::stdout().write_all(&next.to_be_bytes())?;
        io::stdout().flush()?;
    }
    Ok(())
}

/// Sends a number round for ever; returns only if it comes back wrong.
fn go_around(mut ring: Ring, length: u64, rounds: &AtomicU64) -> Result<()> {
    let mut number = 0_u64;
    loop {
        let mut back = [0; 8];
        ring.first.write_all(&number.to_be_bytes())?;
        ring.last.read_exact(&mut back)?;
        let back = u64::from_be_bytes(back);
        let due = number + length;
        ensure!(back == due, "{back} came back where {due} was due");
        number = back;
        rounds.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
}

/// Prints a message when the number does not come back.
fn watch(rounds: &AtomicU64) {
    let mut before = None;
    loop {
        thread::sleep(PATIENCE);
        let now = rounds.load(Ordering::Relaxed);
        if before == Some(now) {
            eprintln!("BROKEN after {now} rounds: the ring is silent");
        }
        before = Some(now);
    }
}
