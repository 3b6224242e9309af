//! A command that runs in a host.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::{Host, Output};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use crate::kind::patience;

/// A command that runs in a host, killed if it is dropped.
///
/// Its output goes to files: a pipe that nobody reads would stop it, and one that a daemon inherits
/// would never end.
#[derive(Debug)]
pub struct Job {
    what: String,
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
}

impl Job {
    /// Starts a command without input.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn start(host: &Host, argv: &[&str]) -> Self {
        Self::start_with(host, argv, &[])
    }

    /// Starts a command without input, with these variables in its environment.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn start_with(host: &Host, argv: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = host.command(argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null());
        command.envs(environment.iter().copied());
        Self::spawn(host, command)
    }

    /// Starts a command that was made by [`Host::command`], with the input it has.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn spawn(host: &Host, mut command: Command) -> Self {
        let what = format!("on {}: {command:?}", host.name());
        let file = || NamedTempFile::new().expect("a temporary file");
        let (stdout, stderr) = (file(), file());
        let end = |file: &NamedTempFile| Stdio::from(file.reopen().expect("reopens"));
        let child = command
            .stdout(end(&stdout))
            .stderr(end(&stderr))
            .spawn()
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        Self {
            what,
            child,
            stdout,
            stderr,
        }
    }

    /// Starts a command and writes it this input, to its end.
    ///
    /// # Panics
    /// If it cannot be started. It need not read all of its input.
    #[track_caller]
    pub fn with_input(host: &Host, argv: &[&str], input: &[u8]) -> Self {
        let mut command = host.command(argv[0]);
        command.args(&argv[1..]).stdin(Stdio::piped());
        let mut job = Self::spawn(host, command);
        let mut stdin = job.child.stdin.take().expect("stdin is piped");
        let _ = stdin.write_all(input);
        job
    }

    /// Sends a signal to the command.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids fit");
        // It may have ended already; whoever waits for it will see.
        let _ = kill(Pid::from_raw(id), signal);
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has printed on stderr so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If that takes longer than the limit, which is higher for virtual machines.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Output {
        let limit = patience(limit);
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Output {
                    status,
                    stdout: self.stdout(),
                    stderr: self.stderr(),
                };
            }
            assert!(
                Instant::now() < deadline,
                "not done after {limit:?}: {}\nstdout:\n{}\nstderr:\n{}",
                self.what,
                self.stdout(),
                self.stderr()
            );
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Usually it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(file: &NamedTempFile) -> String {
    let bytes = fs::read(file.path()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
