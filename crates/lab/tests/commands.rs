//! Commands in a host, run through the library and through the program.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::{Lab, can_run};

#[test]
fn a_command_is_a_process_of_the_host() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-process", &["a"]).unwrap();
    let host = lab.host("a");
    assert_eq!(
        host.sh("hostname; pwd; echo $HOME").unwrap(),
        "a\n/root\n/root"
    );
    assert_eq!(
        host.sh("grep ^0:: /proc/self/cgroup").unwrap(),
        "0::/commands"
    );
    assert_eq!(host.sh("cat /proc/1/comm").unwrap(), "catatonit");
    assert_eq!(host.sh("ls /proc/self/fd | wc -l").unwrap(), "4");
    for namespace in ["net", "mnt", "uts", "ipc", "pid", "cgroup"] {
        let inside = host
            .sh(&format!("readlink /proc/self/ns/{namespace}"))
            .unwrap();
        let outside = fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
        assert_ne!(inside, outside.to_str().unwrap());
    }
    // Only the host's own devices.
    host.sh("test -c /dev/net/tun && test ! -e /dev/vda && test ! -e /dev/kmsg")
        .unwrap();
}

#[test]
fn output_and_failure_are_told() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-output", &["a"]).unwrap();
    let output = lab
        .host("a")
        .run(&["sh", "-c", "echo out; echo err >&2; exit 3"])
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );

    let error = lab
        .host("a")
        .sh("echo out; echo err >&2; false")
        .unwrap_err()
        .to_string();
    assert!(error.contains("out") && error.contains("err"), "{error}");
    let error = lab.host("a").run(&["no-such-program"]).unwrap_err();
    assert!(format!("{error:#}").contains("No such file"), "{error:#}");
}

#[test]
fn orphans_are_reaped() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-orphans", &["a"]).unwrap();
    lab.host("a").sh("(sleep 0.1 &) >/dev/null 2>&1").unwrap();
    sleep(Duration::from_millis(300));
    assert_eq!(
        lab.host("a")
            .sh("ps -eo stat | grep -c ^Z || true")
            .unwrap(),
        "0"
    );
}

#[test]
fn a_daemon_does_not_hold_the_caller() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-daemon", &["a"]).unwrap();
    let began = Instant::now();
    lab.host("a")
        .sh("setsid sleep 1000 </dev/null >/dev/null 2>&1 &")
        .unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    // The shell may end before its child has become `sleep`.
    lab.host("a")
        .sh("for _ in $(seq 50); do pgrep -fx 'sleep 1000' && exit; sleep 0.1; done; false")
        .unwrap();
}

#[test]
fn signals_reach_the_command() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-signals", &["a"]).unwrap();
    for (signal, code) in [("INT", 12), ("TERM", 15), ("USR1", 10)] {
        let mut child = lab
            .host("a")
            .command("sh")
            .args(["-c", "trap 'exit 12' INT; trap 'exit 10' USR1; trap 'exit 15' TERM; echo; while :; do sleep 0.01; done"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
    let mut child = lab.host("a").command("sleep").arg("1000").spawn().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    sleep(Duration::from_millis(50));
    // It may be a zombie until the machine's init, which adopted it, gets to it.
    let alive = "ps -eo stat,comm | grep -v ^Z | grep -c sleep || true";
    assert_eq!(lab.host("a").sh(alive).unwrap(), "0");
}

#[test]
fn put_copies_files_and_directories() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-put", &["a"]).unwrap();
    let host = lab.host("a");
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("tool");
    fs::write(&file, "#!/bin/sh\necho works\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();

    host.put(&file, "/opt/new/name").unwrap();
    host.put(&file, "/usr/local/bin").unwrap();
    host.put(&file, "/opt/other/").unwrap();
    host.put(here.path(), "/opt/directory").unwrap();
    for path in [
        "/opt/new/name",
        "tool",
        "/opt/other/tool",
        "/opt/directory/tool",
    ] {
        assert_eq!(host.sh(path).unwrap(), "works", "{path}");
    }
    // /var/run is an absolute link: it must be followed in the host, not on the machine.
    host.put(&file, "/var/run/t-put-tool").unwrap();
    host.sh("test -e /run/t-put-tool").unwrap();
    assert!(!std::path::Path::new("/run/t-put-tool").exists());
    // A program that is running can be replaced.
    host.sh("cp /usr/bin/sleep /opt/busy; (/opt/busy 1000 &) >/dev/null 2>&1")
        .unwrap();
    host.put(&file, "/opt/busy").unwrap();

    let megabytes = vec![7; 4 << 20];
    host.write("/opt/deep/er/data", &megabytes).unwrap();
    assert_eq!(
        host.sh("stat -c %s /opt/deep/er/data").unwrap(),
        megabytes.len().to_string()
    );
    assert!(host.put("/no/such/file", "/opt/").is_err());
    assert!(host.put(&file, "/proc/nowhere/x").is_err());
}

#[test]
fn the_program_passes_everything_through() {
    if !can_run() {
        return;
    }
    let name = "t-program";
    let lab = Lab::fresh(name, &["a"]).unwrap();
    let program = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.args(["--name", name]).args(arguments);
        command
    };
    let code = |arguments: &[&str]| {
        let status = program(arguments).stderr(Stdio::null()).status();
        status.unwrap().code()
    };
    assert_eq!(code(&["exec", "a", "sh", "-c", "exit 7"]), Some(7));
    assert_eq!(
        code(&["exec", "a", "--", "sh", "-c", "kill -9 $$"]),
        Some(128 + 9)
    );
    assert_eq!(code(&["exec", "a", "no-such-program"]), Some(127));
    assert_eq!(code(&["exec", "nobody", "true"]), Some(1));

    let mut cat = program(&["exec", "a", "cat", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cat.stdin
        .take()
        .unwrap()
        .write_all(b"through and back")
        .unwrap();
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"through and back");

    let status = program(&["status"]).output().unwrap().stdout;
    assert!(
        String::from_utf8(status)
            .unwrap()
            .contains("198.51.100.1    2001:db8:51::1     up")
    );

    let lab_exec = format!("{} --name {name} exec a", env!("CARGO_BIN_EXE_lab"));
    let on_terminal = |script: &str| {
        // Without `exec`, the shell that `script` starts may stay and also receive what is typed.
        let script = format!("exec {lab_exec} -- sh -c '{script}'");
        let mut command = Command::new("script");
        command
            .args(["-qec", &script, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let terminal = on_terminal("test -t 0 && test -t 1 && echo a terminal >/dev/tty");
    let output = terminal.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"a terminal\r\n");
    // What is typed reaches the command once, as a signal, and not a second time through the outer
    // process.
    let mut terminal =
        on_terminal("trap \"echo int\" INT; echo ready; sleep 0.5; sleep 0.5; exit 5");
    let mut line = [0; 7];
    terminal
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut line)
        .unwrap();
    terminal.stdin.as_mut().unwrap().write_all(&[3]).unwrap();
    let output = terminal.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(
        String::from_utf8(output.stdout)
            .unwrap()
            .matches("int")
            .count(),
        1
    );
    drop(lab);
}
