//! The container's image is sent only if it has to be.

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
            services: false,
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

#[test]
fn layers_that_are_there_are_not_sent() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-layers", &["counter"]);
    // One in each format. The layer below contains the counter and is larger than a mebibyte.
    for (name, format, port) in [("of-oci", "oci", 9000), ("of-docker", "docker", 9001)] {
        let build = format!(
            "cd $(mktemp -d); seq 9999 >more
             printf 'FROM localhost/counter\nCOPY more /{name}\n' >Containerfile
             podman build -q --format {format} -t {name} ."
        );
        f.sh("a", &build);
        f.start("a", name, &format!("-p {port}:9000 localhost/{name}"));
        let image = f.definition("a", name)["image"].clone();
        let client = f.client("count", &f.at("a", port), &[]);

        let migration = f.migrate("a", name, "b");
        migration.assert_moved();
        let sent = migration.phase("image").expect("it was missing")["bytes"].as_u64();
        assert!(
            (50_000..200_000).contains(&sent.expect("a number")),
            "{sent:?}"
        );
        pause(300);
        client.finish_whole();
        assert_eq!(f.definition("b", name)["image"], image, "the same image");
        f.sh(
            "b",
            &format!("podman exec {name} /counter --help; podman rm -ft0 {name}"),
        );
        let restarted = format!("podman run --rm --entrypoint /counter localhost/{name} --help");
        f.sh("b", &restarted);
    }
}
