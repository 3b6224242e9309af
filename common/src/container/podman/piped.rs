//! A Podman that reads or writes much: an image.
//!
//! How long that takes depends on the image, so what is limited is how long nothing happens. The child does
//! not outlive its owner.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio_util::sync::CancellationToken;

use crate::command::{self, CommandError};

/// How much of what Podman writes to stderr is kept, in bytes.
const MOST_WORDS: usize = 4096;

/// Least that Podman unpacks in a second once it has read everything, in bytes: far below what any disk does.
const SLOWEST: u64 = 1 << 20;

/// Pause between looks at whether it has ended, or the migration was cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// The image could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Podman failed.
    #[error(transparent)]
    Podman(#[from] CommandError),
    /// The stream to or from the peer failed, or that to or from Podman.
    #[error("the image's stream broke: {0}")]
    Stream(#[source] io::Error),
    /// Podman does not end.
    #[error("podman {verb} has not ended within {limit_s} s")]
    Hangs {
        /// Its first two arguments.
        verb: String,
        /// How long it had, in seconds.
        limit_s: u64,
    },
}

/// A running Podman.
pub(super) struct Piped {
    child: Child,
    /// What it writes to stderr, read from the start: a child that writes more than a pipe holds while
    /// nobody reads would wait for ever.
    said: Option<JoinHandle<Vec<u8>>>,
    patience: Patience,
}

#[derive(Clone)]
struct Patience {
    limit: Duration,
    cancel: CancellationToken,
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Piped {
    /// Starts it. Whatever waits for it ends with `cancel`.
    pub(super) fn start(
        command: &mut Command,
        cancel: &CancellationToken,
    ) -> Result<Self, CommandError> {
        Self::start_with(command, command::LIMIT, cancel)
    }

    fn start_with(
        command: &mut Command,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> Result<Self, CommandError> {
        let child = command.stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|source| CommandError::Start {
            program: "podman".into(),
            source,
        })?;
        let stderr = child.stderr.take().expect("stderr is piped");
        let said = thread::spawn(move || last_of(stderr));
        Ok(Piped {
            child,
            said: Some(said),
            patience: Patience {
                limit,
                cancel: cancel.clone(),
            },
        })
    }

    /// What it writes; can be taken once, if it is piped.
    pub(super) fn stdout(&mut self) -> io::Result<Pipe<ChildStdout>> {
        let end = self.child.stdout.take().expect("stdout is piped");
        Pipe::new(end, self.patience.clone())
    }

    /// What it reads; can be taken once, if it is piped.
    pub(super) fn stdin(&mut self) -> io::Result<Pipe<ChildStdin>> {
        let end = self.child.stdin.take().expect("stdin is piped");
        Pipe::new(end, self.patience.clone())
    }

    /// Waits for its end, which takes longer the more bytes it has been given.
    pub(super) fn finish(mut self, verb: &str, bytes: u64) -> Result<(), ImageError> {
        let limit = self.patience.limit + Duration::from_secs(bytes / SLOWEST);
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().map_err(ImageError::Stream)? {
                break status;
            }
            if self.patience.cancel.is_cancelled() {
                return Err(ImageError::Stream(cancelled()));
            }
            if Instant::now() > deadline {
                return Err(ImageError::Hangs {
                    verb: verb.into(),
                    limit_s: limit.as_secs(),
                });
            }
            thread::sleep(LOOK);
        };
        if status.success() {
            return Ok(());
        }
        let said = self.said.take().and_then(|said| said.join().ok());
        let stderr = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
        Err(CommandError::Failed {
            program: "podman".into(),
            verb: verb.into(),
            message: stderr
                .lines()
                .next_back()
                .map_or_else(|| status.to_string(), str::to_owned),
        }
        .into())
    }
}

/// Reads everything, and returns the end of it.
fn last_of(mut source: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; MOST_WORDS];
    while let Ok(count @ 1..) = source.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(MOST_WORDS);
        kept.drain(..surplus);
    }
    kept
}

fn cancelled() -> io::Error {
    io::Error::other("cancelled")
}

/// An end of a pipe at which nobody waits for ever.
pub(super) struct Pipe<E> {
    end: E,
    patience: Patience,
}

impl<E: AsFd> Pipe<E> {
    fn new(end: E, patience: Patience) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&end, FcntlArg::F_GETFL)?);
        fcntl(&end, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Pipe { end, patience })
    }

    /// Tries until it need not wait.
    fn patiently<T>(
        &mut self,
        ready: PollFlags,
        mut attempt: impl FnMut(&mut E) -> io::Result<T>,
    ) -> io::Result<T> {
        let deadline = Instant::now() + self.patience.limit;
        loop {
            match attempt(&mut self.end) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if self.patience.cancel.is_cancelled() {
                return Err(cancelled());
            }
            if Instant::now() > deadline {
                let limit_s = self.patience.limit.as_secs();
                let why = format!("podman has made no progress for {limit_s} s");
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            let mut end = [PollFd::new(self.end.as_fd(), ready)];
            let moment = PollTimeout::try_from(LOOK).expect("a short time");
            // Interrupted or not: the attempt tells.
            let _ = poll(&mut end, moment);
        }
    }
}

impl Read for Pipe<ChildStdout> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(PollFlags::POLLIN, |end| end.read(buffer))
    }
}

impl Write for Pipe<ChildStdin> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.patiently(PollFlags::POLLOUT, |end| end.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(200);

    fn start(script: &str, cancel: &CancellationToken) -> Piped {
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Piped::start_with(&mut command, MOMENT, cancel).unwrap()
    }

    #[test]
    fn one_that_says_much_does_not_wait() {
        let script =
            "head -c 300000 /dev/zero | tr '\\0' x >&2; cat; echo >&2; echo why >&2; exit 1";
        let mut child = start(script, &CancellationToken::new());
        drop(child.stdin().unwrap());
        let mut stdout = child.stdout().unwrap();
        assert_eq!(io::copy(&mut stdout, &mut io::sink()).unwrap(), 0);
        let error = child.finish("image load", 0).unwrap_err().to_string();
        assert!(error.ends_with("image load failed: why"), "{error}");
    }

    #[test]
    fn one_that_hangs_is_given_up() {
        let cancel = CancellationToken::new();
        let mut silent = start("exec sleep 60", &cancel);
        let error = silent.stdout().unwrap().read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut stdin = silent.stdin().unwrap();
        let error = io::copy(&mut io::repeat(0), &mut stdin).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = silent.finish("image load", 0).unwrap_err();
        assert!(matches!(error, ImageError::Hangs { .. }), "{error}");
    }

    #[test]
    fn one_that_works_for_long_is_not() {
        let script = "for i in 1 2 3 4 5; do sleep 0.1; echo; done";
        let mut slow = start(script, &CancellationToken::new());
        let mut read = Vec::new();
        slow.stdout().unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read.len(), 5);
        slow.finish("image save", 0).unwrap();
    }

    #[test]
    fn a_cancelled_migration_waits_for_none() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let mut command = Command::new("sleep");
        let mut child = Piped::start(command.arg("60").stdout(Stdio::piped()), &cancel).unwrap();
        let error = child.stdout().unwrap().read(&mut [0]).unwrap_err();
        assert_eq!(error.to_string(), "cancelled");
        assert!(child.finish("image save", 0).is_err());
    }
}
