//! The workloads work, and notice when their state is gone.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::programs::{Program, load};
use ::workloads::counter::Answer;
use ::workloads::frame::Frame;
use serde_json::Value;

const ANY: &str = "127.0.0.1:0";

fn echo() -> Program {
    Program::start(
        Command::new(env!("CARGO_BIN_EXE_echo")).args(["--listen", ANY]),
        1,
    )
}

#[test]
fn echo_serves_many_connections() {
    let echo = echo();
    let address = echo.addresses[0].to_string();
    let (ok, report) = load(&["echo", &address, "--connections", "20", "--duration-s", "1"]);
    assert!(ok, "{report}");
    assert_eq!(report["connections"], 20);
    assert_eq!(report["lost"], 0);
    assert_eq!(report["servers"].as_array().unwrap().len(), 1);

    let (ok, report) = load(&["echo", &address, "--udp", "--duration-s", "1"]);
    assert!(ok, "{report}");

    let (status, _) = echo.terminate();
    assert!(status.success());
}

#[test]
fn echo_ends_a_connection_with_a_gap() {
    let echo = echo();
    let mut stream = TcpStream::connect(echo.addresses[0]).unwrap();
    let frame = Frame {
        sequence: 2,
        ..Frame::default()
    };
    stream.write_all(&frame.encode()).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn processes_echo_beside_their_ring() {
    let ring = Program::start(
        Command::new(env!("CARGO_BIN_EXE_processes")).args(["--listen", ANY, "--others", "3"]),
        1,
    );
    let address = ring.addresses[0].to_string();
    let (ok, report) = load(&["echo", &address, "--duration-s", "1"]);
    assert!(ok, "{report}");
    assert!(ring.terminate().0.success());
}

#[test]
fn files_notice_a_changed_page() {
    let directory = tempfile::tempdir().unwrap();
    let fill = format!("{}=1", directory.path().display());
    let mut files = Command::new(env!("CARGO_BIN_EXE_files"))
        .args(["--listen", ANY, "--fill", &fill])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(files.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().starts_with("1 files"));

    let file = directory.path().join("file-0");
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 1 << 20);
    std::fs::write(&file, vec![0; 1 << 20]).unwrap();
    let line = said.next().unwrap().unwrap();
    files.kill().unwrap();
    files.wait().unwrap();
    assert!(line.starts_with("BROKEN"), "{line}");
}

/// A client of a counter.
struct Counting(BufReader<TcpStream>);

impl Counting {
    fn on(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).unwrap()))
    }

    fn ask(&mut self) -> String {
        self.0.get_mut().write_all(b"next\n").unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn next(&mut self) -> Answer {
        self.ask().parse().unwrap()
    }
}

fn counter(program: &str, file: Option<&Path>) -> Program {
    let mut command = Command::new(program);
    command.args(["--listen", ANY]);
    if let Some(file) = file {
        command.arg("--file").arg(file);
    }
    Program::start(&mut command, 1)
}

#[test]
fn counter_counts_for_all_connections() {
    let counter = counter(env!("CARGO_BIN_EXE_counter"), None);
    let mut one = Counting::on(counter.addresses[0]);
    let mut other = Counting::on(counter.addresses[0]);
    let first = one.next();
    assert_eq!((first.count, first.line), (1, 1));
    let second = other.next();
    assert_eq!((second.count, second.line), (2, 1));
    assert_eq!(second.server, first.server);

    let address = counter.addresses[0].to_string();
    let (ok, report) = load(&["count", &address, "--duration-s", "1"]);
    assert!(ok, "{report}");
    assert_eq!(report["first"], 3);
    assert_eq!(report["local_port"], report["local_port_at_end"]);

    let (status, output) = counter.terminate();
    assert!(status.success());
    assert!(output.starts_with("count=1 line=1 "), "{output}");
}

#[test]
fn counter_file_goes_on_in_its_file_and_notices_its_loss() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("count");
    let program = env!("CARGO_BIN_EXE_counter-file");

    let before = counter(program, Some(&file));
    let mut client = Counting::on(before.addresses[0]);
    let old = client.next();
    assert_eq!(old.count, 1);
    before.terminate();

    let after = counter(program, Some(&file));
    let mut client = Counting::on(after.addresses[0]);
    let new = client.next();
    assert_eq!(new.count, 2);
    assert_ne!(new.server, old.server);

    std::fs::write(&file, "").unwrap();
    assert_eq!(client.ask(), "BROKEN the file has 0 bytes after 2 numbers");
}

#[test]
fn counter_open_file_notices_another_file_under_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("count");
    let counter = counter(env!("CARGO_BIN_EXE_counter-open-file"), Some(&file));
    assert!(!directory.path().join("count.tmp").exists());

    let mut client = Counting::on(counter.addresses[0]);
    assert_eq!(client.next().count, 1);
    assert_eq!(client.next().count, 2);

    // A copy that replaced the file, as a careless restore would leave it.
    std::fs::copy(&file, directory.path().join("copy")).unwrap();
    std::fs::rename(directory.path().join("copy"), &file).unwrap();
    assert_eq!(
        client.ask(),
        "BROKEN the name leads to another file than the open one"
    );
}

#[test]
fn dial_out_keeps_one_connection() {
    let server = Program::start(
        Command::new(env!("CARGO_BIN_EXE_load")).args(["serve", ANY, "--json"]),
        1,
    );
    let client = Command::new(env!("CARGO_BIN_EXE_dial-out"))
        .arg(server.addresses[0].to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let (status, output) = server.terminate();
    let report: Value = serde_json::from_str(&output).unwrap();
    assert!(status.success(), "{report}");
    assert!(report["connections"][0]["frames"].as_u64() > Some(5));

    // The server is gone, which the client reports as a fault.
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.contains("closed by the server"), "{output}");
}

#[test]
fn everything_is_whole() {
    let peer = echo();
    let directory = tempfile::tempdir().unwrap();
    let everything = Program::start(
        Command::new(env!("CARGO_BIN_EXE_everything"))
            .args(["--listen", ANY, "--status", ANY])
            .args(["--connect", &peer.addresses[0].to_string()])
            .arg("--map")
            .arg(directory.path().join("map"))
            .arg("--shared")
            .arg(directory.path().join("shared")),
        2,
    );
    let status = || -> Value {
        let stream = TcpStream::connect(everything.addresses[1]).unwrap();
        serde_json::from_reader(stream).unwrap()
    };

    let whole = status();
    assert_eq!(whole["ok"], true, "{whole}");
    assert_eq!(whole["parts"].as_object().unwrap().len(), 8);

    std::fs::write(directory.path().join("shared"), [0; 8]).unwrap();
    let broken = status();
    assert_eq!(broken["ok"], false);
    let fault = broken["parts"]["shared-file"]["fault"].as_str().unwrap();
    assert!(fault.contains("found 0 where"), "{fault}");
}
