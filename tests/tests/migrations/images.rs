//! The container's image goes along only if it has to.

use tests::{Fixture, Setup, pause};

fn image_bytes(f: &Fixture) -> u64 {
    let migration = f.migrate("a", "counter", "b");
    migration.assert_moved();
    migration
        .phase("image")
        .map_or(0, |phase| phase["bytes"].as_u64().expect("a number"))
}

#[test]
fn sent_if_missing_and_only_then() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::with(
        "m-image",
        Setup {
            hosts: &["a", "b", "c"],
            servers: &["b"],
            pairs: &[("a", "b")],
            images: &[("a", &["counter"]), ("b", &["echo"])],
        },
    );
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    let image = f.definition("a", "counter")["image"].clone();
    let client = f.client("count", &f.at("a", 9000), &[]);
    pause(200);
    let sent = image_bytes(&f);
    assert!(sent > 1_000_000, "{sent}");
    pause(300);
    client.finish_whole();
    let defined = f.definition("b", "counter");
    assert_eq!(defined["image"], image, "the same image");
    let tags = f.sh("b", "podman images --format '{{.Repository}}:{{.Tag}}'");
    assert!(tags.contains("localhost/counter:latest"), "{tags}");

    f.sh("b", "podman rm -ft0 counter");
    f.start("a", "counter", "-p 9000:9000 localhost/counter");
    assert_eq!(image_bytes(&f), 0);
}
