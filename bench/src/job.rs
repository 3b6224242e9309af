//! A command that runs in a host.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::Host;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

/// Poll interval while waiting for a command.
const TICK: Duration = Duration::from_millis(2);

/// A command that runs in a host; killed when dropped. Its output goes to files, because whatever
/// it leaves running could keep a pipe open.
pub(crate) struct Job {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
}

impl Job {
    /// Starts a command, whose input stays open.
    pub(crate) fn start(host: &Host, argv: &[&str]) -> Result<Self> {
        let (stdout, stderr) = (NamedTempFile::new()?, NamedTempFile::new()?);
        let what = format!("{} on {}", argv.join(" "), host.name());
        let mut child = host
            .command(argv[0])
            .args(&argv[1..])
            .stdin(Stdio::piped())
            .stdout(stdout.reopen()?)
            .stderr(stderr.reopen()?)
            .spawn()
            .with_context(|| what.clone())?;
        Ok(Self {
            what,
            stdin: child.stdin.take(),
            child,
            stdout,
            stderr,
        })
    }

    /// Writes a line to its input.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its input was ended")?;
        writeln!(stdin, "{line}").with_context(|| self.what.clone())
    }

    /// The id on the machine of the process that represents it (see [`Host::command`]).
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// What it has printed so far.
    pub(crate) fn stdout(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.stdout.path())?)
    }

    /// The first `number` lines that it prints, as soon as they are there.
    pub(crate) fn lines(&mut self, number: usize, limit: Duration) -> Result<Vec<String>> {
        let deadline = Instant::now() + limit;
        loop {
            let text = self.stdout()?;
            if text.matches('\n').count() >= number {
                return Ok(text.lines().take(number).map(str::to_owned).collect());
            }
            ensure!(
                !self.ended()? && Instant::now() < deadline,
                "{} did not say {number} lines: {text}{}",
                self.what,
                self.said_wrong()
            );
            sleep(TICK);
        }
    }

    /// Asks it to end.
    pub(crate) fn interrupt(&self) -> Result<()> {
        let id = Pid::from_raw(self.child.id().try_into()?);
        Ok(kill(id, Signal::SIGINT)?)
    }

    /// Waits for its end, whatever its status, and returns what it printed.
    pub(crate) fn end(&mut self, limit: Duration) -> Result<String> {
        self.await_end(limit)?;
        self.stdout()
    }

    /// Waits for its end and checks that it succeeded.
    pub(crate) fn succeed(&mut self, limit: Duration) -> Result<String> {
        let status = self.await_end(limit)?;
        let text = self.stdout()?;
        if !status.success() {
            bail!(
                "{}: {}\n{text}{}",
                self.what,
                status.code().unwrap_or(status.into_raw()),
                self.said_wrong()
            );
        }
        Ok(text)
    }

    fn await_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "{} is not done after {} s: {}",
                self.what,
                limit.as_secs(),
                self.said_wrong()
            );
            sleep(TICK);
        }
    }

    /// What it has printed to stderr so far.
    pub(crate) fn said_wrong(&self) -> String {
        std::fs::read_to_string(self.stderr.path()).unwrap_or_default()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Usually it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
