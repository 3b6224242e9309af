//! The counter server: each line sent to it is answered with the next number.
//!
//! An answer reads `count=17 line=5 server=1f0c…`: the program's count, the lines answered on this
//! connection, and the program's [identity](process::identity). If the program finds that part of
//! its state is gone, it answers `BROKEN` and why.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::process;

/// One answer of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The program's count, over all connections.
    pub count: u64,
    /// The lines answered on this connection, this one included.
    pub line: u64,
    /// The program's identity.
    pub server: u64,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            count,
            line,
            server,
        } = self;
        write!(out, "count={count} line={line} server={server:016x}")
    }
}

impl FromStr for Answer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut fields = text.split(' ');
        let mut field = |name: &str| {
            fields
                .next()
                .and_then(|field| field.strip_prefix(name)?.strip_prefix('='))
                .with_context(|| format!("no {name} in the answer {text:?}"))
        };
        let answer = Self {
            count: field("count")?.parse()?,
            line: field("line")?.parse()?,
            server: u64::from_str_radix(field("server")?, 16)?,
        };
        if fields.next().is_some() {
            bail!("more than an answer in {text:?}");
        }
        Ok(answer)
    }
}

/// Serves the numbers that `next` gives, on `address`, until the process ends.
///
/// # Errors
/// Those of binding.
pub fn serve(
    address: SocketAddr,
    next: impl FnMut() -> Result<u64> + Send + 'static,
) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let server = process::identity();
    eprintln!("listening on {}", listener.local_addr()?);

    let next = Arc::new(Mutex::new(next));
    loop {
        // A client may be gone before it is accepted; that is no reason to stop.
        let Ok((stream, peer)) = listener.accept() else {
            thread::sleep(process::TICK);
            continue;
        };
        let next = next.clone();
        thread::spawn(move || {
            let answer = || (next.lock().expect("no thread panics"))();
            if let Err(error) = answer_lines(&stream, server, answer) {
                println!("{peer}: {error}");
            }
        });
    }
}

fn answer_lines(
    mut stream: &TcpStream,
    server: u64,
    mut next: impl FnMut() -> Result<u64>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    for (line, request) in (1..).zip(BufReader::new(stream).lines()) {
        request?;
        let answer = match next() {
            Ok(count) => Answer {
                count,
                line,
                server,
            }
            .to_string(),
            Err(error) => format!("BROKEN {error:#}"),
        };
        println!("{answer}");
        stream.write_all(format!("{answer}\n").as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_reads_back() {
        let answer = Answer {
            count: 17,
            line: 5,
            server: 0x1f,
        };
        assert_eq!(answer.to_string().parse::<Answer>().unwrap(), answer);
    }

    #[test]
    fn other_text_is_no_answer() {
        for text in [
            "",
            "BROKEN why",
            "count=1 line=2",
            "count=1 line=2 server=3 4",
        ] {
            assert!(text.parse::<Answer>().is_err(), "{text:?}");
        }
    }
}
