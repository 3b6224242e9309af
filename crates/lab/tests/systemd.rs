//! Hosts with a distribution's defaults.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::{Distribution, Host, Kind, Lab, can_run_machines};

const KINDS: [(&str, Kind); 1] = [("a", Kind::Systemd(Distribution::TRIXIE))];

#[test]
fn a_host_is_as_a_login_by_ssh_finds_it() {
    if !can_run_machines() {
        return;
    }
    let lab = Lab::fresh_as("t-systemd", &KINDS).unwrap();
    let a = lab.host("a");
    defaults(a);
    sessions(a);
    commands(a);
    signals(a);
    network(&lab);
    reboot(&lab);
}

fn defaults(host: &Host) {
    assert_eq!(host.sh("cat /proc/1/comm").unwrap(), "systemd");
    assert_eq!(host.sh("systemctl is-system-running").unwrap(), "running");
    let info = "podman info -f '{{.Host.OCIRuntime.Name}} {{.Host.CgroupManager}} {{.Host.LogDriver}} {{.Host.EventLogger}}'";
    assert_eq!(host.sh(info).unwrap(), "crun systemd journald journald");
    host.sh("test ! -e /etc/containers/containers.conf")
        .unwrap();
    host.sh("aa-enabled --quiet && dpkg-query -W libcriu2")
        .unwrap();
    host.sh("! command -v runc && ! command -v wg").unwrap();
    assert!(host.sh("uname -r").unwrap().starts_with("6.12."));
}

fn sessions(host: &Host) {
    let session = "cat /proc/self/cgroup; echo $XDG_RUNTIME_DIR; stat -c %U $XDG_RUNTIME_DIR
        for what in Type Remote; do
            loginctl show-session --property $what --value $XDG_SESSION_ID
        done";
    let lines = host.sh(session).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    assert!(
        lines[0].starts_with("0::/user.slice/user-0.slice/session-"),
        "{lines:?}"
    );
    assert_eq!(lines[1..], ["/run/user/0", "root", "tty", "yes"]);
    // Each host has its own.
    assert_ne!(
        host.sh("echo $XDG_SESSION_ID").unwrap(),
        host.sh("echo $XDG_SESSION_ID").unwrap()
    );
}

fn commands(host: &Host) {
    assert_eq!(
        host.sh("hostname; pwd; echo $HOME $SHELL").unwrap(),
        "a\n/root\n/root /bin/bash"
    );
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
    assert_eq!(
        host.run(&["sh", "-c", "kill -9 $$"]).unwrap().status.code(),
        Some(128 + 9)
    );
    let mut command = host.command("sh");
    command
        .env("XDG_RUNTIME_DIR", "/given")
        .args(["-c", "echo $XDG_RUNTIME_DIR"]);
    assert_eq!(command.output().unwrap().stdout, b"/given\n");
    let megabytes: Vec<u8> = (0..2_u32 << 20).map(|number| number as u8).collect();
    host.write("/opt/deep/er/data", &megabytes).unwrap();
    let back = host.command("cat").arg("/opt/deep/er/data").output();
    assert!(back.unwrap().stdout == megabytes);

    // A daemon does not keep the caller waiting.
    let began = Instant::now();
    host.sh("setsid sleep 1000 & sleep 0.1 &").unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
    host.sh("pgrep -fx 'sleep 1000'").unwrap();
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
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
    }
    // A command ends with its keeper.
    let mut child = host
        .command("sh")
        .args(["-c", "echo; exec sleep 2000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    host.sh("sleep 1; pgrep -fx 'sleep 2000'").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while host.sh("! pgrep -fx 'sleep 2000'").is_err() {
        assert!(Instant::now() < deadline, "it outlives its keeper");
        sleep(Duration::from_millis(200));
    }
}

fn network(lab: &Lab) {
    let a = lab.host("a");
    let links = "ls /sys/class/net | xargs; ip -o address show dev eth0 scope global | wc -l";
    assert_eq!(a.sh(links).unwrap(), "eth0 lo\n2");
    // Network managers do not find the agent's link.
    a.sh("systemctl restart systemd-networkd && /usr/lib/systemd/systemd-networkd-wait-online")
        .unwrap();
    assert_eq!(a.sh(links).unwrap(), "eth0 lo\n2");
    a.sh("ping -c 1 -w 5 switch").unwrap();
}

fn reboot(lab: &Lab) {
    let a = lab.host("a");
    a.write("/root/kept", "yes").unwrap();
    let boot = a.sh("cat /proc/sys/kernel/random/boot_id").unwrap();
    // The command ends with the host, or shortly before.
    let _ = a.run(&["systemctl", "reboot"]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while a.init().is_some() {
        assert!(Instant::now() < deadline, "the host does not go down");
        sleep(Duration::from_millis(100));
    }
    Lab::up_as(lab.name(), &KINDS).unwrap().keep();
    assert_eq!(a.sh("cat /root/kept").unwrap(), "yes");
    assert_ne!(a.sh("cat /proc/sys/kernel/random/boot_id").unwrap(), boot);
}
