//! Starts the package's programs on loopback, and stops them.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A program that listens; killed when dropped.
pub(crate) struct Program {
    child: Child,
    /// Where it listens, in the order in which it prints the addresses.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Program {
    /// Starts `command` and waits until it has printed `listeners` addresses on which it listens.
    pub(crate) fn start(command: &mut Command, listeners: usize) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the program");
        let output = child.stdout.take().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut addresses = Vec::new();
        while addresses.len() < listeners {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the program ended");
            if let Some((_, address)) = line.trim().split_once(" on ") {
                addresses.push(address.parse().expect("an address"));
            }
        }
        // A full pipe would stop the program.
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        child.stdout = Some(output);
        Self { child, addresses }
    }

    /// Sends SIGTERM and returns the exit status and stdout.
    pub(crate) fn terminate(mut self) -> (std::process::ExitStatus, String) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let mut output = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_string(&mut output).unwrap();
        (self.child.wait().unwrap(), output)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `load` with `arguments` and `--json`; returns whether it succeeded, and its report.
pub(crate) fn load(arguments: &[&str]) -> (bool, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_load"))
        .args(arguments)
        .arg("--json")
        .output()
        .expect("run load");
    report(&output)
}

fn report(output: &Output) -> (bool, Value) {
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{text:?} {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.success(), report)
}
