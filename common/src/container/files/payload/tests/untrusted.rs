//! What a container makes of its files, and what a peer could send, is data.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;

use super::*;

/// A record as it would be in an extended header.
fn record(key: &str, value: &str) -> String {
    let record = |length: usize| format!("{length} {key}={value}\n");
    let length = (1..).find(|length| record(*length).len() == *length);
    record(length.unwrap())
}

#[test]
fn an_attribute_gives_a_file_no_other_place() {
    for path in ["checkpoint/mountpoints-13.img", "log", "rootfs/etc/passwd"] {
        let (a, b) = (host(), host());
        let image = a.places.checkpoint.join("mountpoints-13.img");
        fs::write(&image, "what CRIU wrote").unwrap();
        fs::write(&a.places.log, "what it said").unwrap();
        fs::create_dir_all(b.places.rootfs.join("etc")).unwrap();
        let file = a.places.volumes["/data"].join("f");
        fs::write(&file, "what the container chose").unwrap();
        let value = format!(
            "a\n{}{}b",
            record("path", path),
            record("LIVEMIGRATION.opaque", "1")
        );
        if xattr::set(&file, "user.x", value.as_bytes()).is_err() {
            println!("skipped: no extended attributes here");
            return;
        }
        let upper = a.dir.path().join("upper");
        let (files, sent) = pack_files(&a.places, &upper, None, Vec::new()).unwrap();
        unpack(&b.places, Kind::Files, files.as_slice()).unwrap();
        assert_eq!(fs::read(&b.places.log).unwrap(), b"what it said");
        assert!(fs::read_dir(&b.places.checkpoint).unwrap().next().is_none());
        fs::write(&file, "what the container chose next").unwrap();
        let rest = pack(&a.places, &upper, Some(&sent));
        unpack(&b.places, Kind::Checkpoint, rest.as_slice()).unwrap();

        let there = |path: &Path| fs::read_to_string(path).unwrap();
        let image = b.places.checkpoint.join("mountpoints-13.img");
        assert_eq!(there(&image), "what CRIU wrote");
        assert_eq!(there(&b.places.log), "what it said");
        assert!(!b.places.rootfs.join("etc/passwd").exists());
        let file = b.places.volumes["/data"].join("f");
        assert_eq!(there(&file), "what the container chose next");
        let arrived = xattr::get(&file, "user.x").unwrap().unwrap();
        assert_eq!(String::from_utf8(arrived).unwrap(), value);
    }
}

#[test]
fn attributes_with_any_bytes_arrive() {
    let (a, b) = (host(), host());
    let [here, there] = [&a, &b].map(|host| host.places.volumes["/data"].join("f"));
    fs::write(&here, "").unwrap();
    let all: Vec<u8> = (0..=255).collect();
    let mut expected: Vec<(OsString, Vec<u8>)> = vec![
        ("user.newline".into(), b"\n".to_vec()),
        ("user.zero".into(), b"\0\0".to_vec()),
        ("user.all".into(), all),
        ("user.empty".into(), Vec::new()),
        ("user.a=b\n9 c=d\n".into(), b"x".to_vec()),
        (OsString::from_vec(b"user.\xff\xfe".to_vec()), b"y".to_vec()),
    ];
    expected.sort();
    for (name, value) in &expected {
        if xattr::set(&here, name, value).is_err() {
            println!("skipped: no extended attributes here");
            return;
        }
    }
    carry(&a, &b).unwrap();
    assert_eq!(attributes(&there), expected);
}

fn attributes(path: &Path) -> Vec<(OsString, Vec<u8>)> {
    let names = xattr::list(path).unwrap();
    let names = names.filter(|name| name.as_bytes().starts_with(b"user."));
    let mut all: Vec<_> = names
        .map(|name| {
            let value = xattr::get(path, &name).unwrap().unwrap();
            (name, value)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn names_and_links_arrive_byte_by_byte() {
    let (a, b) = (host(), host());
    let [here, there] = [&a, &b].map(|host| host.places.volumes["/data"].clone());
    let long = format!("../{}//x/./", "n".repeat(200));
    let targets = ["a//b", "./x/", "..", ".", "/", "//a/./b//", &long];
    for (number, target) in targets.iter().enumerate() {
        symlink(target, here.join(number.to_string())).unwrap();
    }
    let name = OsString::from_vec([&b"\n\xff "[..], &[b'\xfe'; 200]].concat());
    fs::write(here.join(&name), "named").unwrap();
    carry(&a, &b).unwrap();
    for (number, target) in targets.iter().enumerate() {
        let arrived = fs::read_link(there.join(number.to_string())).unwrap();
        assert_eq!(arrived.as_os_str(), *target);
    }
    assert_eq!(fs::read(there.join(&name)).unwrap(), b"named");
}

/// A container may have overlays of its own on a volume.
#[test]
fn what_means_something_to_an_overlay_is_data_on_a_volume() {
    let (a, b) = (host(), host());
    let [here, there] = [&a, &b].map(|host| host.places.volumes["/data"].clone());
    use nix::sys::stat::{SFlag, mknod};
    fs::create_dir(here.join("layer")).unwrap();
    let made = mknod(&here.join("layer/gone"), SFlag::S_IFCHR, Mode::empty(), 0).is_ok();
    let set = xattr::set(here.join("layer"), "trusted.overlay.opaque", b"y").is_ok();
    if !made || !set {
        println!("skipped: no device nodes or no trusted extended attributes here");
        return;
    }
    carry(&a, &b).unwrap();
    let gone = fs::symlink_metadata(there.join("layer/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = xattr::get(there.join("layer"), "trusted.overlay.opaque").unwrap();
    assert_eq!(opaque, Some(b"y".to_vec()));
}

#[test]
fn images_and_the_log_come_in_their_place_only() {
    let entry = |path: &str| archive_with(path, EntryType::Regular, None);
    let directory = archive_with("rootfs/d", EntryType::Directory, None);
    let mut extended = Builder::new(Vec::new());
    let records = record("mtime", "1.000000000");
    extended
        .append_pax_extensions([("mtime", b"1.000000000".as_slice())])
        .unwrap();
    assert!(
        extended
            .get_ref()
            .windows(records.len())
            .any(|w| w == records.as_bytes())
    );
    let extended = |path: &str| {
        let mut bytes = extended.get_ref().clone();
        bytes.extend(entry(path));
        bytes
    };
    let joined = |parts: &[Vec<u8>]| {
        let mut bytes = Vec::new();
        for part in parts {
            // Without the zeros at an archive's end.
            let end = part.len().saturating_sub(1024);
            let whole = part[end..].iter().any(|byte| *byte != 0);
            bytes.extend_from_slice(if whole { part } else { &part[..end] });
        }
        bytes
    };
    let good = joined(&[entry("checkpoint/a.img"), directory.clone(), entry("log")]);
    unpack(&host().places, Kind::Checkpoint, good.as_slice()).unwrap();
    for (kind, bytes) in [
        (Kind::Files, entry("checkpoint/a.img")),
        (Kind::Files, joined(&[entry("log"), entry("shm/f")])),
        (Kind::Files, extended("rest-of-log")),
        (Kind::Files, entry("rest-of-log/x")),
        (
            Kind::Checkpoint,
            joined(&[directory.clone(), entry("checkpoint/a.img")]),
        ),
        (Kind::Checkpoint, joined(&[entry("log"), directory])),
        (
            Kind::Checkpoint,
            joined(&[entry("log"), entry("checkpoint/a.img")]),
        ),
        (Kind::Checkpoint, extended("checkpoint/a.img")),
        (Kind::Checkpoint, extended("log")),
        (Kind::Checkpoint, entry("log/x")),
        (
            Kind::Checkpoint,
            archive_with("log", EntryType::Symlink, Some("/etc/passwd")),
        ),
        (
            Kind::Checkpoint,
            archive_with("checkpoint/a.img", EntryType::Fifo, None),
        ),
    ] {
        let host = host();
        let error = unpack(&host.places, kind, bytes.as_slice()).unwrap_err();
        assert!(error.to_string().contains("unexpected"), "{error}");
    }
}

#[test]
fn an_entry_that_its_attributes_would_move_is_refused() {
    let host = host();
    for (key, value) in [
        ("path", "log"),
        ("linkpath", "rootfs/x"),
        ("size", "0"),
        ("GNU.sparse.name", "log"),
    ] {
        let mut builder = Builder::new(Vec::new());
        builder
            .append_pax_extensions([(key, value.as_bytes())])
            .unwrap();
        let mut bytes = builder.get_ref().clone();
        bytes.extend(archive_with("rootfs/f", EntryType::Regular, None));
        assert!(unpack(&host.places, Kind::Checkpoint, bytes.as_slice()).is_err());
        assert!(!host.places.rootfs.join("f").exists(), "{key}");
    }
}

#[test]
fn attributes_that_went_between_two_passes_go() {
    let (a, b) = (host(), host());
    let [here, there] = [&a, &b].map(|host| host.places.volumes["/data"].clone());
    fs::create_dir(here.join("d")).unwrap();
    fs::write(here.join("d/f"), "").unwrap();
    // Version 2; user_obj, group_obj, mask and other as in linux/posix_acl_xattr.h, and user 522.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions, id) in [
        (0x01u16, 7u16, u32::MAX),
        (0x02, 7, 522),
        (0x04, 5, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 5, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let names = [
        "user.note",
        "system.posix_acl_default",
        "system.posix_acl_access",
    ];
    for path in [here.clone(), here.join("d")] {
        for name in names {
            if let Err(error) = xattr::set(&path, name, &acl) {
                println!("skipped: {name}: {error}");
                return;
            }
        }
    }
    carry_twice(&a, &b, || {
        assert_eq!(xattr::list(there.join("d")).unwrap().count(), 3);
        // Made in a directory that hands its list down, and without one all the same.
        assert_eq!(xattr::list(there.join("d/f")).unwrap().count(), 0);
        for path in [here.clone(), here.join("d")] {
            for name in names {
                xattr::remove(&path, name).unwrap();
            }
        }
    });
    for path in [there.clone(), there.join("d"), there.join("d/f")] {
        assert_eq!(xattr::list(&path).unwrap().count(), 0, "{path:?}");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().mode();
    assert_eq!(mode(&here.join("d")), mode(&there.join("d")));
}

#[test]
fn a_change_reaches_the_file_that_was_sent_and_nothing_else() {
    let target = host();
    let outside = target.dir.path().join("outside");
    fs::write(&outside, "outside").unwrap();
    let data = &target.places.volumes["/data"];
    symlink(&outside, data.join("link")).unwrap();
    nix::unistd::mkfifo(&data.join("fifo"), Mode::S_IRWXU).unwrap();
    fs::create_dir(data.join("directory")).unwrap();
    fs::write(data.join("file"), "file").unwrap();
    let change = |name: &str, records: &[(&str, &[u8])], kind: EntryType| {
        let mut builder = Builder::new(Vec::new());
        builder.append_pax_extensions(records.to_vec()).unwrap();
        let mut bytes = builder.get_ref().clone();
        bytes.extend(archive_with(&format!("volumes/0/{name}"), kind, None));
        unpack(&target.places, Kind::Files, bytes.as_slice())
    };
    let patch: &[(&str, &[u8])] = &[("LIVEMIGRATION.patch", b"1"), ("LIVEMIGRATION.size", b"0")];
    for name in ["link", "fifo", "directory", "missing"] {
        assert!(change(name, patch, EntryType::Regular).is_err(), "{name}");
    }
    assert!(change("file", &patch[..1], EntryType::Regular).is_err());
    assert!(change("file", patch, EntryType::Symlink).is_err());
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "file");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "outside");
    change("file", patch, EntryType::Regular).unwrap();
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "");
}
