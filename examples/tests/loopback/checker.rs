//! The checker finds faults in a bad server, and none in a good one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::programs::load;
use ::workloads::frame::{Frame, SIZE};
use serde_json::Value;

/// The frame at which these servers misbehave.
const TENTH: u64 = 10;

/// Runs `load echo` against a server that answers each frame with `answer(frame)`, and closes the
/// connection if that is `None`.
fn against(answer: impl Fn(Frame) -> Option<Vec<u8>> + Send + 'static) -> (bool, Value) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; SIZE];
        while stream.read_exact(&mut bytes).is_ok() {
            let Some(echo) = answer(Frame::decode(&bytes).unwrap()) else {
                return reset(stream);
            };
            if stream.write_all(&echo).is_err() {
                return;
            }
        }
    });
    load(&["echo", &address, "--interval-ms", "2", "--duration-s", "1"])
}

/// Closes with unread bytes, which resets the connection.
fn reset(stream: TcpStream) {
    thread::sleep(Duration::from_millis(50));
    drop(stream);
}

fn good(frame: Frame) -> Frame {
    Frame {
        server: 1,
        counted: frame.sequence,
        ..frame
    }
}

#[test]
fn a_good_server_passes() {
    let (ok, report) = against(|frame| Some(good(frame).encode().to_vec()));
    assert!(ok, "{report}");
    assert_eq!(report["ok"], true);
    assert_eq!(report["sent"], report["received"]);
    assert_eq!(report["servers"], serde_json::json!(["0000000000000001"]));
}

#[test]
fn one_that_ends_at_once_has_seen_an_echo() {
    let server = |stream: TcpStream| {
        let mut reader = &stream;
        let mut bytes = [0; SIZE];
        while reader.read_exact(&mut bytes).is_ok() {
            let echo = good(Frame::decode(&bytes).unwrap()).encode();
            (&stream).write_all(&echo).unwrap();
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || server(listener.accept().unwrap().0));
    let (ok, report) = load(&["echo", &address, "--duration-s", "0"]);
    assert!(ok, "{report}");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut bytes = [0; SIZE];
        while let Ok((_, from)) = socket.recv_from(&mut bytes) {
            let echo = good(Frame::decode(&bytes).unwrap()).encode();
            socket.send_to(&echo, from).unwrap();
        }
    });
    let (ok, report) = load(&["echo", &address, "--udp", "--duration-s", "0"]);
    assert!(ok, "{report}");
}

#[test]
fn a_pause_is_a_stall_and_no_fault() {
    let (ok, report) = against(|frame| {
        if frame.sequence == TENTH {
            thread::sleep(Duration::from_millis(400));
        }
        Some(good(frame).encode().to_vec())
    });
    assert!(ok, "{report}");
    assert!(report["stall_ms"].as_f64().unwrap() >= 400.0, "{report}");
    assert!(report["rtt_max_ms"].as_f64().unwrap() >= 400.0, "{report}");
    let wait = report["longest_wait"]["ms"].as_f64().unwrap();
    assert!(
        (400.0..=report["stall_ms"].as_f64().unwrap()).contains(&wait),
        "{report}"
    );
}

/// Runs `load redis` against a server that answers the n-th command with `answer(n)`.
fn against_redis(answer: impl Fn(u64) -> String + Send + 'static) -> (bool, Value) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let commands = BufReader::new(stream.try_clone().unwrap()).lines();
        for (number, command) in (1..).zip(commands) {
            assert_eq!(command.unwrap(), "INCR load");
            if stream.write_all(answer(number).as_bytes()).is_err() {
                return;
            }
        }
    });
    load(&["redis", &address, "--interval-ms", "2", "--duration-s", "1"])
}

#[test]
fn a_redis_that_counts_passes_and_its_pause_is_a_wait() {
    let (ok, report) = against_redis(|number| {
        if number == TENTH {
            thread::sleep(Duration::from_millis(400));
        }
        format!(":{}\r\n", number + 7)
    });
    assert!(ok, "{report}");
    assert_eq!(report["first"], 8);
    let wait = report["longest_wait"]["ms"].as_f64().unwrap();
    assert!((400.0..900.0).contains(&wait), "{report}");
}

#[test]
fn a_redis_that_forgets_is_found() {
    let (ok, report) = against_redis(|number| format!(":{}\r\n", number % TENTH));
    assert!(!ok);
    assert_eq!(report["error"], "0 came where 10 was due", "{report}");
}

#[test]
fn a_lost_byte_is_found() {
    let (ok, report) = against(|frame| {
        let mut bytes = good(frame).encode().to_vec();
        if frame.sequence == TENTH {
            bytes.remove(20);
        }
        Some(bytes)
    });
    assert!(!ok);
    assert_eq!(report["corrupted"], 1, "{report}");
    assert_eq!(report["received"], TENTH - 1, "{report}");
}

#[test]
fn a_repeated_echo_is_found() {
    let (ok, report) = against(|frame| {
        let times = if frame.sequence == TENTH { 2 } else { 1 };
        Some(good(frame).encode().repeat(times))
    });
    assert!(!ok);
    assert_eq!(report["repeated"], 1, "{report}");
}

#[test]
fn a_missing_echo_is_found() {
    let (ok, report) = against(|frame| match frame.sequence {
        TENTH => Some(Vec::new()),
        _ => Some(good(frame).encode().to_vec()),
    });
    assert!(!ok);
    assert_ne!(report["lost"], 0, "{report}");
    let error = report["errors"][0].as_str().unwrap();
    assert!(error.contains("echo 11 came where 10 was due"), "{report}");
}

#[test]
fn a_reset_is_found() {
    let (ok, report) = against(|frame| {
        if frame.sequence != TENTH {
            return Some(good(frame).encode().to_vec());
        }
        // Closing a socket that has unread data resets its connection.
        thread::sleep(Duration::from_millis(300));
        None
    });
    assert!(!ok);
    assert_eq!(report["resets"], 1, "{report}");
    let error = report["errors"][0].as_str().unwrap();
    assert!(error.contains("reset by peer"), "{report}");
}

#[test]
fn another_process_is_found() {
    let (ok, report) = against(|frame| {
        let server = 1 + u64::from(frame.sequence >= TENTH);
        let echo = Frame {
            server,
            ..good(frame)
        };
        Some(echo.encode().to_vec())
    });
    assert!(!ok);
    assert_eq!(report["other_server"], 1, "{report}");
}

#[test]
fn a_forgotten_count_is_found() {
    let (ok, report) = against(|frame| {
        let forgot = if frame.sequence >= TENTH {
            TENTH - 1
        } else {
            0
        };
        let echo = Frame {
            counted: frame.sequence - forgot,
            ..good(frame)
        };
        Some(echo.encode().to_vec())
    });
    assert!(!ok);
    assert_eq!(report["other_server"], 1, "{report}");
}

/// Runs `load echo --udp` against a server that sends back `answers(frame)` datagrams for each
/// frame.
fn against_datagrams(answers: impl Fn(Frame) -> usize + Send + 'static) -> (bool, Value) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut bytes = [0; SIZE];
        while let Ok((_, peer)) = socket.recv_from(&mut bytes) {
            let frame = Frame::decode(&bytes).unwrap();
            for _ in 0..answers(frame) {
                let _ = socket.send_to(&good(frame).encode(), peer);
            }
        }
    });
    load(&[
        "echo",
        &address,
        "--udp",
        "--interval-ms",
        "5",
        "--duration-s",
        "1",
    ])
}

#[test]
fn lost_and_repeated_datagrams_are_counted() {
    let (ok, report) = against_datagrams(|frame| match frame.sequence {
        TENTH => 0,
        11 => 2,
        _ => 1,
    });
    assert!(ok, "{report}");
    assert_eq!(report["lost"], 1, "{report}");
    assert_eq!(report["repeated"], 1, "{report}");
    assert_eq!(report["reordered"], 0, "{report}");
}

#[test]
fn a_dead_flow_of_datagrams_is_found() {
    let (ok, report) = against_datagrams(|_| 0);
    assert!(!ok);
    assert_eq!(report["received"], 0, "{report}");
}

/// Runs `load count` against a server that sends `answers`, one per line.
fn count_against(answers: &'static [&'static str]) -> (bool, Value) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for answer in answers {
            let _ = stream.read_exact(&mut [0; "next\n".len()]);
            let _ = writeln!(stream, "{answer}");
        }
        thread::sleep(Duration::from_secs(2));
    });
    load(&["count", &address, "--duration-s", "5"])
}

#[test]
fn a_counter_that_loses_its_state_is_found() {
    for (answers, error) in [
        (
            &["count=7 line=1 server=a", "count=8 line=2 server=b"],
            "another process answers: 000000000000000b, not 000000000000000a",
        ),
        (
            &["count=7 line=1 server=a", "count=7 line=2 server=a"],
            "the count went back to 7",
        ),
        (
            &["count=7 line=1 server=a", "count=9 line=3 server=a"],
            "answer 3 came where 2 was due",
        ),
    ] {
        let (ok, report) = count_against(answers);
        assert!(!ok);
        assert_eq!(report["error"], error);
    }
}
