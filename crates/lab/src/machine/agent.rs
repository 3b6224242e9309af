//! Runs commands in a virtual machine: one connection each, from a [keeper](super::keeper).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::wire::{self, Kind};

nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, Winsize);
nix::ioctl_write_int_bad!(take_terminal, libc::TIOCSCTTY);

/// Serves the connections of the socket that is stdin, for ever.
pub(crate) fn serve_stdin() -> Result<()> {
    // SAFETY: this program was started with a listening socket as its stdin, and does not read it.
    let listener = TcpListener::from(unsafe { OwnedFd::from_raw_fd(0) });
    // Its commands must not inherit it.
    close_on_exec(listener.as_fd().as_raw_fd())?;
    serve(&listener, &[])
}

/// Serves the connections of a socket, for ever. If `runner` is not empty, it is the beginning of a
/// command line whose rest is the command to run.
pub(crate) fn serve(listener: &TcpListener, runner: &'static [OsString]) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().context("cannot accept")?;
        thread::spawn(move || {
            if let Err(e) = serve_one(stream, runner) {
                eprintln!("lab: {e:#}");
            }
        });
    }
}

/// Runs the command of one connection. It is killed if the connection ends first.
fn serve_one(stream: TcpStream, runner: &[OsString]) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    let to_keeper = Arc::new(Mutex::new(stream));
    let Some(mut request) = Request::read(&mut requests)? else {
        return Ok(());
    };
    for word in runner.iter().rev() {
        request.arguments.push_front(word.clone());
    }
    let mut running = match request.start() {
        Ok(running) => running,
        Err(e) => {
            let number = e.raw_os_error().unwrap_or(libc::EIO).to_be_bytes();
            return Ok(wire::send(&*lock(&to_keeper), Kind::Failed, &number)?);
        }
    };
    let command = Arc::new(Mutex::new(Some(running.child)));
    let pid = Pid::from_raw(lock(&command).as_ref().map_or(0, Child::id).cast_signed());

    let (done, finished) = io::pipe()?;
    let finished = Arc::new(OwnedFd::from(finished));
    let done = Arc::new(OwnedFd::from(done));
    let outputs: Vec<JoinHandle<()>> = running
        .outputs
        .drain(..)
        .map(|(kind, output)| {
            let (done, to_keeper) = (done.clone(), to_keeper.clone());
            thread::spawn(move || pass_on(kind, output, &done, &to_keeper))
        })
        .collect();
    let (input, inputs) = mpsc::channel();
    let taken = to_keeper.clone();
    thread::spawn(move || feed(running.input, &inputs, &taken));
    let ended = command.clone();
    thread::spawn(move || {
        // Not reaped yet, so whoever holds the lock may still send it a signal.
        let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let status = lock(&ended).take().map(|mut child| child.wait());
        drop(finished);
        for output in outputs {
            let _ = output.join();
        }
        let code = status.and_then(Result::ok).map_or(255, |status| {
            let code = status.code();
            code.unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
        });
        // A keeper that is gone needs no answer.
        let to_keeper = lock(&to_keeper);
        let _ = wire::send(&*to_keeper, Kind::Exit, &[code as u8]);
        let _ = to_keeper.shutdown(Shutdown::Write);
    });

    let signal = |number: i32| {
        if lock(&command).is_some() {
            // SAFETY: the process has not been waited for, so the number is still its own.
            unsafe { libc::kill(pid.as_raw(), number) };
        }
    };
    loop {
        match wire::receive(&mut requests) {
            Ok(Some((Kind::Input, bytes))) => {
                // The thread that fed it may have ended with it.
                let _ = input.send(bytes);
            }
            Ok(Some((Kind::Signal, bytes))) => {
                signal(wire::number(&bytes)?.cast_signed());
            }
            Ok(Some((Kind::Terminal, bytes))) => {
                if let Some(terminal) = &running.terminal {
                    // SAFETY: a terminal, and a live value of the right type.
                    let _ = unsafe { set_size(terminal.as_raw_fd(), &size(&bytes)) };
                }
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    signal(Signal::SIGKILL as i32);
    Ok(())
}

/// What the keeper asks for.
#[derive(Debug, Default)]
struct Request {
    arguments: VecDeque<OsString>,
    variables: Vec<(OsString, OsString)>,
    terminal: Option<Winsize>,
}

impl Request {
    /// `None` if the keeper asks for nothing: it only wanted to know whether the agent is there.
    fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut request = Self::default();
        while let Some((kind, mut bytes)) = wire::receive(&mut *from)? {
            match kind {
                Kind::Argument => request.arguments.push_back(OsString::from_vec(bytes)),
                Kind::Variable => {
                    let equals = bytes.iter().position(|byte| *byte == b'=').unwrap_or(0);
                    let value = bytes.split_off(equals + 1);
                    bytes.pop();
                    let pair = (OsString::from_vec(bytes), OsString::from_vec(value));
                    request.variables.push(pair);
                }
                Kind::Terminal => request.terminal = Some(size(&bytes)),
                Kind::Start => return Ok(Some(request)),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        Ok(None)
    }

    fn start(mut self) -> io::Result<Running> {
        let program = self.arguments.pop_front().unwrap_or_default();
        let mut command = Command::new(&program);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.variables)
            .current_dir("/root");
        let Some(size) = self.terminal else {
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = command.spawn()?;
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            let outputs = [
                stdout.map(|pipe| (Kind::Output, OwnedFd::from(pipe).into())),
                stderr.map(|pipe| (Kind::Error, OwnedFd::from(pipe).into())),
            ];
            return Ok(Running {
                input: child.stdin.take().map(|pipe| OwnedFd::from(pipe).into()),
                outputs: outputs.into_iter().flatten().collect(),
                terminal: None,
                child,
            });
        };
        let terminal = openpty(&size, None)?;
        close_on_exec(terminal.master.as_raw_fd())?;
        command
            .stdin(terminal.slave.try_clone()?)
            .stdout(terminal.slave.try_clone()?)
            .stderr(terminal.slave);
        let own = || {
            nix::unistd::setsid()?;
            // SAFETY: stdin is a terminal, and this process now leads a session without one.
            unsafe { take_terminal(0, 0) }?;
            Ok(())
        };
        // SAFETY: it makes only system calls and allocates nothing.
        unsafe { command.pre_exec(own) };
        let child = command.spawn()?;
        // `command` keeps the command's ends open until it is dropped.
        drop(command);
        let master = File::from(terminal.master);
        Ok(Running {
            child,
            input: Some(master.try_clone()?),
            outputs: vec![(Kind::Output, master.try_clone()?)],
            terminal: Some(master),
        })
    }
}

/// A command, and our ends of what it reads and writes.
#[derive(Debug)]
struct Running {
    child: Child,
    input: Option<File>,
    outputs: Vec<(Kind, File)>,
    terminal: Option<File>,
}

/// Sends what a command prints, until all writers are done, or until the command has ended and what
/// it left has been sent: a daemon that it started does not keep the caller waiting.
fn pass_on(kind: Kind, mut output: File, done: &OwnedFd, to_keeper: &Mutex<TcpStream>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut ready = [
            PollFd::new(output.as_fd(), PollFlags::POLLIN),
            PollFd::new(done.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut ready, PollTimeout::NONE).is_err() {
            continue;
        }
        if ready[0].revents().is_none_or(|events| events.is_empty()) {
            return;
        }
        // Reading a terminal that nobody has open any more fails, which is an end of the output as
        // well.
        match output.read(&mut buffer) {
            Ok(length @ 1..) => {
                if wire::send(&*lock(to_keeper), kind, &buffer[..length]).is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// Writes input to a command and tells the keeper how much, until there is no more. What the
/// command does not want to read counts as written.
fn feed(mut input: Option<File>, inputs: &mpsc::Receiver<Vec<u8>>, to_keeper: &Mutex<TcpStream>) {
    while let Ok(bytes) = inputs.recv() {
        if bytes.is_empty() {
            return;
        }
        if input
            .as_mut()
            .is_some_and(|to| to.write_all(&bytes).is_err())
        {
            input = None;
        }
        let length = (bytes.len() as u32).to_be_bytes();
        let _ = wire::send(&*lock(to_keeper), Kind::Taken, &length);
    }
}

fn size(bytes: &[u8]) -> Winsize {
    let number = |at| match bytes.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    };
    Winsize {
        ws_row: number(0),
        ws_col: number(2),
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn close_on_exec(fd: i32) -> io::Result<()> {
    // SAFETY: this changes a flag of a descriptor and touches no memory.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
