use std::fs;
use std::path::Path;

use common::container::files::payload::{Kind, unpack};
use common::container::files::places::Places;
use common::fuzzing;

use crate::sandbox::Sandbox;

/// Below the sandbox's root: the places of a container.
const PLACES: &str = "/places";
/// What nothing may touch.
const OUTSIDE: &str = "/outside";

pub(super) fn unpacking(input: &[u8]) {
    thread_local!(static SANDBOX: Sandbox = Sandbox::new(unpack_here));
    SANDBOX.with(|sandbox| sandbox.run(input));
}

fn unpack_here(input: &[u8]) {
    let _ = fs::remove_dir_all(PLACES);
    let at = |name: &str| Path::new(PLACES).join(name);
    for name in ["rootfs", "shm", "volume"] {
        fs::create_dir_all(at(name)).expect("there is room");
    }
    let outside = Path::new(OUTSIDE);
    if !outside.exists() {
        fs::create_dir(outside).expect("there is room");
        fs::write(outside.join("file"), "untouched").expect("there is room");
    }
    // What a container may have left there for whoever unpacks.
    std::os::unix::fs::symlink(OUTSIDE, at("rootfs/way-out")).expect("there is room");
    let places = Places {
        checkpoint: at("checkpoint"),
        rootfs: at("rootfs"),
        netns: None,
        shm: Some(at("shm")),
        volumes: [("/data".to_owned(), at("volume"))].into(),
        files: [("/file".to_owned(), at("single"))].into(),
        log: at("ctr.log"),
    };
    std::fs::write(at("single"), "").expect("there is room");
    // The stream with more in it goes last: it may hold all that the other may.
    for kind in [Kind::Files, Kind::Checkpoint] {
        let _ = unpack(&places, kind, input);
    }
    let names = |directory: &str| {
        let entries = fs::read_dir(directory).expect("it is there still");
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("/"), ["outside", "places", "proc", "tmp"]);
    assert_eq!(names(OUTSIDE), ["file"]);
    let content = fs::read(outside.join("file")).expect("it is there still");
    assert_eq!(content, b"untouched");
    let known = ["checkpoint", "ctr.log", "rootfs", "shm", "single", "volume"];
    for name in names(PLACES) {
        assert!(known.iter().any(|known| name == *known), "{name:?}");
    }
}

pub(super) fn saved_images(input: &[u8]) {
    let mut new = Vec::new();
    if fuzzing::image(&mut &input[..], &mut new).is_ok() {
        let again = fuzzing::image(&mut &new[..], &mut Vec::new());
        again.expect("an archive is left");
    }
}
