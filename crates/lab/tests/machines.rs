//! Hosts that are virtual machines do what namespace hosts do, and more.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::{Host, Kind, Lab, can_run_machines};

#[test]
fn a_machine_is_a_host_like_any_other() {
    if !can_run_machines() {
        return;
    }
    let name = "t-machine";
    let kinds = [("a", Kind::Machine), ("b", Kind::Namespaces)];
    let lab = Lab::fresh_as(name, &kinds).unwrap();
    let a = lab.host("a");
    commands(a);
    signals(a);
    files(a);
    program(name);
    network(&lab);
    a_kernel_of_its_own(a);
}

#[test]
fn a_machine_lives_as_long_as_its_emulator() {
    if !can_run_machines() {
        return;
    }
    let name = "t-machine-life";
    Lab::destroy(name).unwrap();
    // A host that is killed while it boots is not up, and does not stay in the way.
    let up = |hosts: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.args(["--name", name, "--vm", "up"]).args(hosts);
        command
    };
    let mut interrupted = up(&["a"]).spawn().unwrap();
    // On a machine that has never had one, the disk is built first.
    let mut looks = 0..1200;
    while Lab::open(name).is_err() && looks.next().is_some() {
        sleep(Duration::from_millis(100));
    }
    sleep(Duration::from_secs(1));
    interrupted.kill().unwrap();
    interrupted.wait().unwrap();
    assert_eq!(Lab::open(name).unwrap().host("a").init(), None);

    assert!(up(&["a"]).status().unwrap().success());
    let lab = Lab::open(name).unwrap();
    let a = lab.host("a");
    let emulator = a.init().unwrap();
    a.write("/root/kept", "yes").unwrap();
    a.write("/run/lost", "yes").unwrap();
    a.sh("sync").unwrap();

    // What runs is left alone, and keeps its kind.
    assert!(up(&["a"]).status().unwrap().success());
    assert_eq!(a.init(), Some(emulator));
    let error = Lab::up(name, &["a"]).unwrap_err();
    assert!(error.to_string().contains("another kind"), "{error}");

    // The emulator's end is a power cut, for commands as well.
    let mut running = a.command("sleep").arg("1000").spawn().unwrap();
    sleep(Duration::from_millis(500));
    lab.power_off("a").unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(128 + 9));
    assert_eq!(a.init(), None);
    let error = a.sh("true").unwrap_err();
    assert!(
        format!("{error:#}").contains("No such process"),
        "{error:#}"
    );
    assert!(up(&["a"]).status().unwrap().success());
    assert_eq!(a.sh("cat /root/kept").unwrap(), "yes");
    a.sh("test ! -e /run/lost").unwrap();

    let emulator = a.init().unwrap();
    Lab::destroy(name).unwrap();
    // For a moment, a zombie is left of it.
    assert!(fs::read_link(format!("/proc/{emulator}/exe")).is_err());
    assert!(!Path::new("/var/lib/live-migration-lab").join(name).exists());
}

fn commands(host: &Host) {
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

    let output = host
        .run(&["sh", "-c", "echo out; echo err >&2; exit 3"])
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );
    let output = host.run(&["no-such-program"]).unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(output.stderr.contains("No such file"), "{output}");
    let mut command = host.command("sh");
    command.env("GIVEN", "yes").args(["-c", "echo $GIVEN"]);
    assert_eq!(command.output().unwrap().stdout, b"yes\n");

    // A daemon does not keep the caller waiting, and what it leaves is reaped.
    let began = Instant::now();
    host.sh("setsid sleep 1000 & sleep 0.1 &").unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
    sleep(Duration::from_secs(2));
    host.sh("pgrep -fx 'sleep 1000'").unwrap();
    assert_eq!(host.sh("ps -eo stat | grep -c ^Z || true").unwrap(), "0");
    host.sh("pkill -fx 'sleep 1000'").unwrap();
}

fn signals(host: &Host) {
    for (signal, code) in [("INT", 12), ("TERM", 15), ("USR1", 10)] {
        let script = "trap 'exit 12' INT; trap 'exit 10' USR1; trap 'exit 15' TERM
            echo; while :; do sleep 0.05; done";
        let mut child = host
            .command("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = child.id().to_string();
        let kill = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(kill.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
    // A command ends with its keeper, even with unread input under way.
    let mut child = host
        .command("sleep")
        .arg("2000")
        .stdin(fs::File::open("/dev/zero").unwrap())
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(1));
    host.sh("pgrep -fx 'sleep 2000'").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    sleep(Duration::from_secs(1));
    host.sh("! pgrep -fx 'sleep 2000'").unwrap();
}

fn files(host: &Host) {
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("tool");
    fs::write(&file, "#!/bin/sh\necho works\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&file, executable).unwrap();
    host.put(&file, "/usr/local/bin").unwrap();
    host.put(here.path(), "/opt/directory").unwrap();
    for path in ["tool", "/opt/directory/tool"] {
        assert_eq!(host.sh(path).unwrap(), "works", "{path}");
    }
    let megabytes: Vec<u8> = (0..4_u32 << 20).map(|number| number as u8).collect();
    host.write("/opt/deep/er/data", &megabytes).unwrap();
    let back = host.command("cat").arg("/opt/deep/er/data").output();
    assert!(back.unwrap().stdout == megabytes);
    assert!(host.put("/no/such/file", "/opt/").is_err());
    assert!(host.put(&file, "/proc/nowhere/x").is_err());
}

fn program(name: &str) {
    let program = env!("CARGO_BIN_EXE_lab");
    let status = Command::new(program)
        .args(["--name", name, "status"])
        .output();
    let status = String::from_utf8(status.unwrap().stdout).unwrap();
    assert!(
        status.contains("2001:db8:51::1     up (emulator"),
        "{status}"
    );

    let on_terminal = |script: &str| {
        let script = format!("exec {program} --name {name} exec a -- sh -c '{script}'");
        let mut command = Command::new("script");
        command
            .args(["-qec", &script, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    // What is typed reaches the command once, as a signal from its own terminal.
    let mut terminal = on_terminal(
        "trap \"echo int\" INT; test -t 0 && echo ready >/dev/tty; sleep 1; sleep 1; exit 5",
    );
    let mut line = [0; 7];
    let stdout = terminal.stdout.as_mut().unwrap();
    stdout.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ready\r\n");
    terminal.stdin.as_mut().unwrap().write_all(&[3]).unwrap();
    let output = terminal.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.matches("int").count(), 1, "{output}");
}

fn network(lab: &Lab) {
    let (a, b) = (lab.host("a"), lab.host("b"));
    for target in ["b", "198.51.100.2", "2001:db8:51::2", "198.51.100.254"] {
        a.sh(&format!("ping -c 1 -w 5 {target}")).unwrap();
    }
    b.sh("ping -c 1 -w 5 a").unwrap();
    a.sh("! ping -c 1 -w 1 192.0.2.1").unwrap();
    // The agent's link does not show, neither here nor at the switch.
    assert_eq!(a.sh("ls /sys/class/net | xargs").unwrap(), "eth0 lo");
    assert_eq!(a.sh("ss -Htl | wc -l").unwrap(), "0");
    let links = lab.switch().sh("ls /sys/class/net | sort | xargs").unwrap();
    assert_eq!(links, "a b lo switch");

    let before = a.snapshot().unwrap();
    lab.cut("a").unwrap();
    a.sh("! ping -c 1 -w 1 b").unwrap();
    assert_eq!(a.sh("cat /sys/class/net/eth0/carrier").unwrap(), "1");
    lab.mend("a").unwrap();
    a.sh("ping -4 -c 1 -w 5 b && ping -6 -c 1 -w 5 b").unwrap();
    let after = a.snapshot().unwrap();
    assert_eq!(before, after, "{}", before.diff(&after));
}

/// What a host made of this machine's namespaces may not have.
fn a_kernel_of_its_own(host: &Host) {
    host.sh("ip link add w type wireguard && ip link del w")
        .unwrap();
    host.sh("modprobe sch_plug").unwrap();
    host.sh("criu check --feature mem_dirty_track").unwrap();
    let controllers = "cat /sys/fs/cgroup/cgroup.subtree_control";
    let controllers = host.sh(controllers).unwrap();
    assert!(controllers.contains("memory") && controllers.contains("pids"));
    let uptime: f64 = {
        let text = host.sh("cut -d ' ' -f 1 /proc/uptime").unwrap();
        text.parse().unwrap()
    };
    let here = fs::read_to_string("/proc/uptime").unwrap();
    let here: f64 = here.split(' ').next().unwrap().parse().unwrap();
    assert!(uptime < here, "{uptime} of {here} seconds");
}
