//! From up to down, and what may happen to a lab in between.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::{Host, Kind, Lab, can_run};

#[test]
fn up_again_changes_nothing_and_adds_what_is_missing() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-again", &["a", "b"]).unwrap();
    let before: Vec<_> = lab.hosts().iter().map(Host::init).collect();
    lab.keep();

    let lab = Lab::up("t-again", &["c", "a"]).unwrap();
    let after: Vec<_> = lab.hosts().iter().map(Host::init).collect();
    assert_eq!(before, after[..2]);
    assert_eq!(lab.host("c").ipv4().to_string(), "198.51.100.3");
    lab.host("a").sh("ping -4 -c 1 -w 5 c").unwrap();
}

#[test]
fn a_killed_host_boots_again_from_its_disk() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-killed", &["a", "b"]).unwrap();
    lab.host("a").write("/root/kept", "yes").unwrap();
    lab.host("a").write("/run/lost", "yes").unwrap();
    kill(lab.host("a").init().unwrap());
    until("the host is gone", || lab.host("a").init().is_none());
    let error = lab.host("a").sh("true").unwrap_err();
    assert!(
        format!("{error:#}").contains("No such process"),
        "{error:#}"
    );
    lab.keep();

    let lab = Lab::up("t-killed", &["a"]).unwrap();
    assert_eq!(lab.host("a").sh("cat /root/kept").unwrap(), "yes");
    lab.host("a").sh("test ! -e /run/lost").unwrap();
    lab.host("b").sh("ping -c 1 -w 5 a").unwrap();
}

#[test]
fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
    if !can_run() {
        return;
    }
    let hosts = [("a", Kind::Disk)];
    let lab = Lab::fresh_as("t-disk", &hosts).unwrap();
    lab.keep();
    for directory in ["/root", "/var/lib/containers"] {
        for turn in 0..5 {
            let lab = Lab::open("t-disk").unwrap();
            let at = |name: &str| format!("{directory}/{name}-{turn}");
            let (synced, renamed, unsynced) = (at("synced"), at("renamed"), at("unsynced"));
            let write = format!(
                "echo yes >{synced}; sync {synced} {directory}; mv {synced} {renamed}; echo no >{unsynced}"
            );
            lab.host("a").sh(&write).unwrap();
            let boot = "cat /proc/sys/kernel/random/boot_id";
            let before = lab.host("a").sh(boot).unwrap();
            lab.power_off("a").unwrap();
            let lab = Lab::up_as("t-disk", &hosts).unwrap();
            let look = format!("cat {synced}; cd {directory}; ls");
            let seen = lab.host("a").sh(&look).unwrap();
            let after = lab.host("a").sh(boot).unwrap();
            lab.keep();
            assert_ne!(before, after);
            assert!(seen.starts_with("yes\n"), "in turn {turn}: {seen}");
            for lost in ["unsynced", "renamed"] {
                assert!(!seen.contains(lost), "in turn {turn}: {seen}");
            }
        }
    }
    Lab::destroy("t-disk").unwrap();
}

#[test]
fn a_killed_switch_is_a_power_cut_for_all() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-switch", &["a", "b"]).unwrap();
    kill(lab.switch().init().unwrap());
    until("the switch is gone", || lab.switch().init().is_none());
    lab.keep();

    let lab = Lab::up("t-switch", &["a", "b"]).unwrap();
    lab.host("a").sh("ping -c 1 -w 5 b").unwrap();
}

#[test]
fn up_and_down_recover_from_a_kill_at_any_moment() {
    if !can_run() {
        return;
    }
    let name = "t-midway";
    Lab::fresh(name, &["a"]).unwrap().down().unwrap();
    for milliseconds in [1, 20, 40, 60, 80, 100, 150, 200, 250] {
        let mut up = lab_command(name, &["up", "a", "b"]).spawn().unwrap();
        sleep(Duration::from_millis(milliseconds));
        up.kill().unwrap();
        up.wait().unwrap();
        if milliseconds % 20 == 0 {
            Lab::destroy(name).unwrap();
            assert_gone(name);
        } else {
            let lab = Lab::up(name, &["a", "b"]).unwrap();
            lab.host("a")
                .sh("ping -c 1 -w 5 b && test -d /sys/fs/cgroup/init")
                .unwrap();
        }
    }
    assert_gone(name);
}

#[test]
fn two_at_once_agree() {
    if !can_run() {
        return;
    }
    let name = "t-at-once";
    Lab::destroy(name).unwrap();
    let ups = ["b", "c"].map(|other| lab_command(name, &["up", "a", other]).spawn().unwrap());
    for mut up in ups {
        assert!(up.wait().unwrap().success());
    }
    let lab = Lab::up(name, &["a", "b", "c"]).unwrap();
    lab.host("a")
        .sh("ping -c 1 -w 5 b && ping -c 1 -w 5 c")
        .unwrap();
}

#[test]
fn labs_side_by_side_do_not_meet() {
    if !can_run() {
        return;
    }
    let one = Lab::fresh("t-one", &["a", "b"]).unwrap();
    let two = Lab::fresh("t-two", &["a"]).unwrap();
    assert_eq!(one.host("a").ipv4(), two.host("a").ipv4());
    one.host("a").sh("ping -c 1 -w 5 b").unwrap();
    two.host("a").sh("! ping -c 1 -w 1 198.51.100.2").unwrap();

    two.down().unwrap();
    one.host("a").sh("ping -c 1 -w 5 b").unwrap();
}

#[test]
fn nothing_is_left_after_down() {
    if !can_run() {
        return;
    }
    let name = "t-down";
    let lab = Lab::fresh(name, &["a", "b"]).unwrap();
    lab.host("a")
        .sh("setsid sleep 1000 </dev/null >/dev/null 2>&1 &
             mkdir /mnt/x && mount -t tmpfs tmpfs /mnt/x
             ip netns add inner
             mkdir /sys/fs/cgroup/frozen && echo $! >/sys/fs/cgroup/frozen/cgroup.procs
             echo 1 >/sys/fs/cgroup/frozen/cgroup.freeze")
        .unwrap();
    let mut running = lab.host("b").command("sleep").arg("1000").spawn().unwrap();
    let namespaces: Vec<_> = lab
        .hosts()
        .iter()
        .map(|host| fs::read_link(format!("/proc/{}/ns/net", host.init().unwrap())).unwrap())
        .collect();

    lab.down().unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(128 + 9));
    assert_gone(name);
    for process in processes() {
        let namespace = fs::read_link(process.join("ns/net")).unwrap_or_default();
        assert!(
            !namespaces.contains(&namespace),
            "{} is left",
            process.display()
        );
    }
    Lab::destroy(name).unwrap();
}

#[test]
fn down_deletes_nothing_below_a_mount() {
    if !can_run() {
        return;
    }
    let name = "t-mounted";
    Lab::fresh(name, &["a"]).unwrap().keep();
    // In its own mount namespace: a failed test leaves nothing mounted on the machine.
    let precious = tempfile::tempdir().unwrap();
    fs::write(precious.path().join("file"), "precious").unwrap();
    let script = format!(
        "mount --make-rprivate / && mkdir {dir}/m && mount --bind {precious} {dir}/m && ! {lab} --name {name} down",
        dir = directory(name),
        precious = precious.path().display(),
        lab = env!("CARGO_BIN_EXE_lab"),
    );
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-ec", &script])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert!(precious.path().join("file").exists());
    Lab::destroy(name).unwrap();
    assert_gone(name);
}

#[test]
fn names_that_would_escape_are_refused() {
    for name in ["", "..", "a/b", "switch"] {
        assert!(Lab::up("t-names", &[name]).is_err(), "{name:?}");
    }
    assert!(Lab::up("../t", &["a"]).is_err());
    assert!(Lab::destroy("").is_err());
}

fn lab_command(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.args(["--name", name]).args(arguments);
    command
}

fn directory(lab: &str) -> String {
    format!("/var/lib/live-migration-lab/{lab}")
}

fn kill(pid: i32) {
    let status = Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(5));
    }
}

fn processes() -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.join("mountinfo").exists())
        .collect()
}

/// No file, no cgroup and no mount of the lab is left, in any namespace.
fn assert_gone(lab: &str) {
    let directory = directory(lab);
    assert!(!Path::new(&directory).exists());
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let cgroup = Path::new(hierarchy).join("live-migration-lab").join(lab);
        assert!(!cgroup.exists(), "{} is left", cgroup.display());
    }
    let inside = format!("{directory}/");
    for process in processes() {
        let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        assert!(
            !mounts.contains(&inside),
            "{} still has a mount",
            process.display()
        );
    }
}
