//! Podman, runc, CRIU and netavark work in the hosts as they do on real ones.

use std::path::Path;
use std::process::{Command, Stdio};

use lab::{Host, Lab, can_run};

#[test]
fn a_published_port_is_reachable_and_a_checkpoint_moves() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-podman", &["a", "b", "c"]).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.host(name));
    import_counter(a);
    let empty = a.snapshot_with_podman().unwrap();
    a.sh("podman run -d --name counter -p 8080:80 counter")
        .unwrap();
    assert_eq!(ask(c, "198.51.100.1"), "1");
    assert_eq!(ask(a, "127.0.0.1"), "2");
    let diff = empty.diff(&a.snapshot_with_podman().unwrap());
    assert!(
        diff.contains("+ counter") && diff.contains("+ podman0"),
        "{diff}"
    );

    copy(a, b, "podman save -q counter", "podman load -q");
    a.sh("podman container checkpoint --export /root/checkpoint counter")
        .unwrap();
    copy(a, b, "cat /root/checkpoint", "cat >/root/checkpoint");
    b.sh("podman container restore --import /root/checkpoint")
        .unwrap();
    assert_eq!(ask(c, "198.51.100.2"), "3");
    b.sh("podman rm -f -t 0 counter").unwrap();
}

#[test]
fn containers_of_hosts_with_the_same_names_do_not_meet() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-same", &["a", "b"]).unwrap();
    for host in lab.hosts() {
        import_counter(host);
        host.sh("podman network create --subnet 10.99.0.0/24 net && podman volume create data")
            .unwrap();
        host.sh("podman run -d --name counter --network net -v data:/data -p 8080:80 counter")
            .unwrap();
    }
    assert_eq!(ask(lab.host("a"), "198.51.100.2"), "1");
    assert_eq!(ask(lab.host("b"), "198.51.100.1"), "1");
}

#[test]
fn podman_survives_a_power_cut() {
    if !can_run() {
        return;
    }
    let lab = Lab::fresh("t-power", &["a", "b"]).unwrap();
    import_counter(lab.host("a"));
    lab.host("a")
        .sh("podman run -d --name counter -p 8080:80 counter")
        .unwrap();
    lab.power_off("a").unwrap();
    lab.keep();
    let lab = Lab::up("t-power", &["a"]).unwrap();
    lab.host("a").sh("podman start counter").unwrap();
    assert_eq!(ask(lab.host("b"), "198.51.100.1"), "1");
}

/// Makes an image that contains one static program, without a registry.
fn import_counter(host: &Host) {
    let image = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/counter.c");
    let status = Command::new("cc")
        .args(["-static", "-o"])
        .args([&image.path().join("counter"), &source])
        .status()
        .unwrap();
    assert!(status.success());
    host.put(image.path(), "/root/image").unwrap();
    host.sh("tar -C /root/image -c . | podman import -q --change 'CMD [\"/counter\"]' - counter")
        .unwrap();
}

/// Connects to port 8080 until something answers, and returns what it says.
fn ask(from: &Host, address: &str) -> String {
    from.sh(&format!(
        "for i in $(seq 50); do nc -N -w 2 {address} 8080 </dev/null && exit; sleep 0.1; done; exit 1"
    ))
    .unwrap()
}

/// Pipes the output of a script on one host into a script on another.
fn copy(from: &Host, to: &Host, reads: &str, writes: &str) {
    let mut source = from
        .command("sh")
        .args(["-ec", reads])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sink = to
        .command("sh")
        .args(["-ec", writes])
        .stdin(source.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(source.wait().unwrap().success());
    assert!(
        sink.status.success(),
        "{}",
        String::from_utf8_lossy(&sink.stderr)
    );
}
