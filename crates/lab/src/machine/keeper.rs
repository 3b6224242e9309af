//! The process on the machine that represents a command in a virtual machine: it passes on input,
//! output and signals, and ends as the command does.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::Winsize;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{self, SetArg, Termios};

use super::link;
use super::wire::{self, Kind, WINDOW};
use crate::cgroup::Cgroup;
use crate::pidfd;

nix::ioctl_read_bad!(get_size, libc::TIOCGWINSZ, Winsize);

/// The status with which a shell reports that signal 9 ended a command.
const KILLED: u8 = 128 + 9;

/// Runs a command in the virtual machine whose emulator is the only process of `emulator`, with this
/// process's environment; returns the status to exit with.
pub(crate) fn run(emulator: &Cgroup, argv: &[OsString]) -> Result<u8> {
    let signals: SigSet = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
    ]
    .into_iter()
    .collect();
    // Before there is a second thread, which inherits this.
    signals.thread_block()?;
    let process = pidfd::of_only(emulator)?;
    let power = process.try_clone()?;
    thread::spawn(move || {
        let mut ended = [PollFd::new(power.as_fd(), PollFlags::POLLIN)];
        while poll(&mut ended, PollTimeout::NONE).is_err() {}
        // Nobody is left to say how the command ended; a power cut ends it like this.
        std::process::exit(KILLED.into());
    });
    let stream = link::connect(&process).context("the host does not answer")?;
    let raw = Raw::if_terminal()?;
    let status = relay(stream, argv, signals, raw.is_some());
    drop(raw);
    status
}

fn relay(stream: TcpStream, argv: &[OsString], signals: SigSet, terminal: bool) -> Result<u8> {
    let answers = BufReader::new(stream.try_clone()?);
    let to_agent = Arc::new(Mutex::new(stream));
    {
        let to_agent = &*lock(&to_agent);
        for word in argv {
            wire::send(to_agent, Kind::Argument, word.as_bytes())?;
        }
        for (name, value) in std::env::vars_os() {
            let variable = [name.as_bytes(), b"=", value.as_bytes()].concat();
            wire::send(to_agent, Kind::Variable, &variable)?;
        }
        if terminal {
            wire::send(to_agent, Kind::Terminal, &size())?;
        }
        wire::send(to_agent, Kind::Start, &[])?;
    }
    let window = Arc::new(Window::default());
    let (input, under_way) = (to_agent.clone(), window.clone());
    thread::spawn(move || send_input(&input, &under_way));
    thread::spawn(move || send_signals(signals, &to_agent));
    receive(answers, &window)
}

/// Prints the command's output until its end; returns its status.
fn receive(mut answers: impl Read, window: &Window) -> Result<u8> {
    while let Some((kind, bytes)) = wire::receive(&mut answers).context("the host is lost")? {
        // If nobody reads our output any more, that does not end the command. It would not either
        // if the output were a pipe that the command itself does not write to.
        let _ = match kind {
            Kind::Output => print(io::stdout().lock(), &bytes),
            Kind::Error => print(io::stderr().lock(), &bytes),
            Kind::Taken => {
                window.close(wire::number(&bytes)? as usize);
                Ok(())
            }
            Kind::Exit => return Ok(bytes.first().copied().unwrap_or(255)),
            Kind::Failed => {
                let number = wire::number(&bytes)?.cast_signed();
                return Ok(not_started(&io::Error::from_raw_os_error(number)));
            }
            _ => Ok(()),
        };
    }
    anyhow::bail!("the host is lost")
}

/// Reports that a command could not be started, and why; returns the status to exit with.
pub(super) fn not_started(error: &io::Error) -> u8 {
    eprintln!("lab: cannot run it: {error}");
    match error.kind() {
        io::ErrorKind::NotFound => 127,
        io::ErrorKind::PermissionDenied => 126,
        _ => 125,
    }
}

fn print(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// Sends all of stdin. If it cannot be read, that is its end.
fn send_input(to_agent: &Mutex<TcpStream>, window: &Window) {
    let mut stdin = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(stdin) => File::from(stdin),
        Err(_) => return,
    };
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = match stdin.read(&mut buffer) {
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        window.open(length);
        let sent = wire::send(&*lock(to_agent), Kind::Input, &buffer[..length]);
        if sent.is_err() || length == 0 {
            return;
        }
    }
}

/// Forwards the signals that this process gets. What is typed on a terminal that is the command's
/// input is not a signal here but input.
fn send_signals(signals: SigSet, to_agent: &Mutex<TcpStream>) {
    while let Ok(signal) = signals.wait() {
        let to_agent = &*lock(to_agent);
        let sent = match signal {
            Signal::SIGWINCH => wire::send(to_agent, Kind::Terminal, &size()),
            other => wire::send(to_agent, Kind::Signal, &(other as u32).to_be_bytes()),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// How much input is under way.
#[derive(Debug, Default)]
struct Window {
    bytes: Mutex<usize>,
    smaller: Condvar,
}

impl Window {
    /// Waits until this much more may be under way, and counts it.
    fn open(&self, length: usize) {
        let bytes = lock(&self.bytes);
        let mut bytes = self
            .smaller
            .wait_while(bytes, |bytes| *bytes > 0 && *bytes + length > WINDOW)
            .unwrap_or_else(PoisonError::into_inner);
        *bytes += length;
    }

    /// This much has arrived.
    fn close(&self, length: usize) {
        let mut bytes = lock(&self.bytes);
        *bytes = bytes.saturating_sub(length);
        self.smaller.notify_all();
    }
}

/// This process's terminal, in raw mode. Undone when dropped.
#[derive(Debug)]
struct Raw(Termios);

impl Raw {
    /// Puts it into raw mode if stdin and stdout are a terminal.
    fn if_terminal() -> Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, SetArg::TCSADRAIN, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

/// Rows and columns of the terminal on stdout, in a frame's format.
fn size() -> [u8; 4] {
    let mut size = Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: a live value of the right type; if it is no terminal, it stays as it is.
    let _ = unsafe { get_size(io::stdout().as_raw_fd(), &mut size) };
    let ([a, b], [c, d]) = (size.ws_row.to_be_bytes(), size.ws_col.to_be_bytes());
    [a, b, c, d]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
