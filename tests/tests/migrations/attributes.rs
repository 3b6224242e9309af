//! Extended attributes of files, between hosts whose file systems differ.

use tests::{Fixture, pause};

#[test]
fn an_attribute_that_the_destination_has_no_room_for() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-attributes", &["counter"]);
    // A file system without extended attributes.
    let volumes = "/var/lib/containers/storage/volumes";
    f.sh(
        "b",
        &format!("mkdir -p {volumes}; mount -t ramfs ramfs {volumes}"),
    );
    f.start(
        "a",
        "counter",
        "-p 9000:9000 -v notes:/notes localhost/counter",
    );
    let notes = format!("{volumes}/notes/_data/note");
    f.sh("a", &format!("echo written > {notes}"));
    // setxattr(2) on x86-64 and on arm64; perl is on every host.
    let set = r#"$n = `uname -m` =~ /x86/ ? 188 : 5; ($p, $k, $v) = (shift, "user.note", "n");
        exit(syscall($n, $p, $k, $v, 1, 0) != 0)"#;
    let output = f.run("a", &["perl", "-e", set, &notes]);
    assert!(output.status.success(), "{output}");
    let client = f.client("count", &f.at("a", 9000), &[]);

    let migration = f.migrate("a", "counter", "b");
    migration.assert_moved();
    migration.assert_says(&["/notes", "user.note"]);
    assert_eq!(f.sh("b", &format!("cat {notes}")).trim(), "written");
    pause(300);
    client.finish_whole();
}
