//! What whole migrations between hosts that share a kernel cannot show: `scripts/test --vm`.

use std::time::{Duration, Instant};

use lab::{Kind, Lab};
use tests::{Fixture, pause};

/// Whether the hosts are virtual machines. If not, says so as [`lab::can_run`] does.
fn can_run() -> bool {
    if tests::kind() == Kind::Machine {
        return lab::can_run_machines();
    }
    eprintln!("skipped: needs hosts that are virtual machines (LAB_KIND=vm)");
    false
}

#[test]
fn the_clock_goes_on_where_the_uptime_is_another_one() {
    if !can_run() {
        return;
    }
    let mut f = Fixture::new("m-clock", &["counter"]);
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    restart(&mut f, "b");
    let client = f.client("count", &f.at("a", 9000), &[]);
    let uptimes = ["a", "b"].map(|host| seconds(&f.sh(host, "cut -d ' ' -f 1 /proc/uptime")));
    assert!(uptimes[0] > uptimes[1] + 10.0, "{uptimes:?}");

    let there = (clocks(&f, "a", "counter"), Instant::now());
    let migration = f.migrate("a", "counter", "b");
    migration.assert_moved();
    assert_eq!(migration.report["tunnel"]["backend"], "kernel");
    let here = clocks(&f, "b", "counter");
    let passed = there.1.elapsed().as_secs_f64();
    println!(
        "uptimes {uptimes:?}, clocks {:?}, after {passed} s {here:?}",
        there.0
    );
    for (before, after) in there.0.iter().zip(here) {
        let error = after - before - passed;
        assert!((-10.0..10.0).contains(&error), "{error} s");
    }
    pause(1000);
    client.finish_whole();
}

#[test]
fn crun_restores_at_the_gate() {
    if !can_run() {
        return;
    }
    let f = Fixture::new("m-crun", &["echo"]);
    let before = f.look(&["a", "b"]);
    let options = "--runtime crun -p 7000:7000 -p 7000:7000/udp localhost/echo";
    f.start("a", "echo", options);
    let streams = f.client("echo", &f.at("a", 7000), &["--connections", "5"]);
    let datagrams = f.client("echo", &f.at("a", 7000), &["--udp"]);
    pause(500);

    f.migrate("a", "echo", "b").assert_moved();
    pause(1000);
    streams.finish_whole();
    datagrams.finish_whole();
    let runtime = f.sh("b", "podman inspect -f '{{.OCIRuntime}}' echo");
    assert_eq!(runtime, "crun");

    f.sh("b", "podman rm -ft0 echo");
    f.assert_as_before(&before);
}

#[test]
fn limits_move_with_the_container() {
    if !can_run() {
        return;
    }
    let f = Fixture::new("m-limits", &["counter"]);
    let options = "--memory 200m --pids-limit 100 --cpu-shares 512";
    f.start("a", "counter", &format!("{options} localhost/counter"));
    let limits = |host: &str| {
        let files = "memory.max pids.max cpu.weight";
        f.sh(
            host,
            &format!(
                "cd /sys/fs/cgroup$(podman inspect -f '{{{{.State.CgroupPath}}}}' counter)
                 [ -e container ] && cd container; cat {files}"
            ),
        )
    };
    let there = limits("a");
    assert!(there.starts_with("209715200\n100\n"), "{there}");
    f.migrate("a", "counter", "b").assert_moved();
    assert_eq!(limits("b"), there);
}

/// Cuts a host's power and boots it again, later than the others.
fn restart(f: &mut Fixture, host: &str) {
    f.stop_serving(host);
    f.sh(host, "sync");
    f.lab().power_off(host).expect("it can be killed");
    std::thread::sleep(Duration::from_secs(10));
    let hosts = [(host, Kind::Machine)];
    let lab = Lab::up_as(f.lab().name(), &hosts).expect("it boots again");
    lab.keep();
    f.serve(host);
}

/// `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` as the first process of a container sees them.
fn clocks(f: &Fixture, host: &str, container: &str) -> [f64; 2] {
    let ask = "import time; print(time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))";
    let pid = "podman inspect -f '{{.State.Pid}}'";
    let script = format!("nsenter --time -t $({pid} {container}) python3 -c '{ask}'");
    let text = f.sh(host, &script);
    let (monotonic, boot) = text.split_once(' ').expect("two numbers");
    [seconds(monotonic), seconds(boot)]
}

fn seconds(text: &str) -> f64 {
    text.parse().expect("a number")
}
