mod ahead;
mod changing;
mod untrusted;

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

struct Host {
    dir: tempfile::TempDir,
    places: Places,
}

fn host() -> Host {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let places = Places {
        checkpoint: at("checkpoint"),
        rootfs: at("rootfs"),
        shm: Some(at("shm")),
        volumes: [("/data".into(), at("v0")), ("/x".into(), at("v1"))].into(),
        files: [("/etc/one".into(), dir.path().join("one"))].into(),
        log: dir.path().join("ctr.log"),
        netns: None,
    };
    fs::write(dir.path().join("one"), "").unwrap();
    at("upper");
    Host { dir, places }
}

fn pack(places: &Places, upper: &Path, sent: Option<&Sent>) -> Vec<u8> {
    let frozen = Frozen::new(Vec::new(), &places.checkpoint);
    frozen.finish(places, upper, sent).unwrap()
}

fn carry(from: &Host, to: &Host) -> io::Result<()> {
    let upper = from.dir.path().join("upper");
    let bytes = pack(&from.places, &upper, None);
    unpack(&to.places, Kind::Checkpoint, bytes.as_slice()).map(drop)
}

#[test]
fn a_single_file_stays_the_same_file() {
    let (a, b) = (host(), host());
    let (from, to) = (a.dir.path().join("one"), b.dir.path().join("one"));
    fs::write(&from, "content").unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o4711)).unwrap();
    fs::write(&to, "an older and longer one").unwrap();
    let inode = fs::metadata(&to).unwrap().ino();
    let upper = a.dir.path().join("upper");
    // Longer than the clock of files takes for a step, so that all is settled.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let (bytes, sent) = pack_files(&a.places, &upper, None, Vec::new()).unwrap();
    unpack(&b.places, Kind::Files, bytes.as_slice()).unwrap();
    let equal = || {
        let (one, two) = (fs::metadata(&from).unwrap(), fs::metadata(&to).unwrap());
        assert_eq!(
            (one.mode(), one.mtime_nsec()),
            (two.mode(), two.mtime_nsec())
        );
        assert_eq!(two.ino(), inode);
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
    };
    equal();
    let (unchanged, sent) = pack_files(&a.places, &upper, Some(&sent), Vec::new()).unwrap();
    fs::write(&from, "changed").unwrap();
    let (changed, _) = pack_files(&a.places, &upper, Some(&sent), Vec::new()).unwrap();
    assert!(unchanged.len() < changed.len());
    unpack(&b.places, Kind::Files, changed.as_slice()).unwrap();
    equal();
}

#[test]
fn files_links_times_and_attributes_arrive() {
    let (a, b) = (host(), host());
    let data = &a.places.volumes["/data"];
    fs::create_dir_all(data.join("sub/deep")).unwrap();
    fs::write(data.join("sub/file"), b"content").unwrap();
    fs::set_permissions(data.join("sub/file"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::hard_link(data.join("sub/file"), data.join("sub/deep/again")).unwrap();
    symlink("/nowhere/../at all", data.join("link")).unwrap();
    nix::unistd::mkfifo(&data.join("fifo"), Mode::S_IRWXU).unwrap();
    let long = "n".repeat(180);
    fs::write(data.join(&long), b"").unwrap();
    let has_xattrs = xattr::set(data.join("sub/file"), "user.note", b"\0\xff").is_ok();
    fs::write(b.places.volumes["/data"].join("left over"), b"x").unwrap();
    fs::write(&a.places.log, b"said").unwrap();
    fs::write(&b.places.log, b"an older and longer version").unwrap();

    carry(&a, &b).unwrap();

    assert_eq!(fs::read(&b.places.log).unwrap(), b"said");
    let there = &b.places.volumes["/data"];
    assert_eq!(fs::read(there.join("sub/file")).unwrap(), b"content");
    let (one, two) = (
        fs::metadata(there.join("sub/file")).unwrap(),
        fs::metadata(there.join("sub/deep/again")).unwrap(),
    );
    assert_eq!(one.ino(), two.ino());
    assert_eq!(one.mode() & 0o7777, 0o6751);
    assert_eq!(
        fs::read_link(there.join("link")).unwrap(),
        Path::new("/nowhere/../at all")
    );
    assert!(there.join(&long).exists());
    assert!(!there.join("left over").exists());
    for name in ["sub/file", "sub", "sub/deep", "link", "fifo"] {
        let (here, there) = (
            fs::symlink_metadata(data.join(name)).unwrap(),
            fs::symlink_metadata(there.join(name)).unwrap(),
        );
        assert_eq!(here.mtime_nsec(), there.mtime_nsec(), "{name}");
        assert_eq!(here.mode(), there.mode(), "{name}");
    }
    if has_xattrs {
        assert_eq!(
            xattr::get(there.join("sub/file"), "user.note").unwrap(),
            Some(b"\0\xff".to_vec())
        );
    }
}

use nix::sys::stat::Mode;

#[test]
fn overlay_changes_apply_to_the_lower_layers() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: whiteouts need root");
        return;
    }
    let (a, b) = (host(), host());
    let upper = a.dir.path().join("upper");
    for merged in [&a.places.rootfs, &b.places.rootfs] {
        fs::create_dir(merged.join("kept")).unwrap();
        fs::write(merged.join("kept/old"), b"old").unwrap();
    }
    for name in ["deleted", "becomes-dir"] {
        fs::write(b.places.rootfs.join(name), b"").unwrap();
    }
    fs::create_dir(b.places.rootfs.join("replaced")).unwrap();
    fs::write(b.places.rootfs.join("replaced/gone"), b"").unwrap();

    use nix::sys::stat::{SFlag, mknod};
    mknod(&upper.join("deleted"), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
    for base in [&upper, &a.places.rootfs] {
        fs::create_dir(base.join("replaced")).unwrap();
        fs::write(base.join("replaced/new"), b"new").unwrap();
        fs::create_dir(base.join("becomes-dir")).unwrap();
    }
    fs::create_dir(upper.join("kept")).unwrap();
    if xattr::set(upper.join("replaced"), "trusted.overlay.opaque", b"y").is_err() {
        println!("skipped: no trusted extended attributes here");
        return;
    }

    carry(&a, &b).unwrap();

    let rootfs = &b.places.rootfs;
    assert!(!rootfs.join("deleted").exists());
    assert!(!rootfs.join("replaced/gone").exists());
    assert_eq!(fs::read(rootfs.join("replaced/new")).unwrap(), b"new");
    assert!(rootfs.join("becomes-dir").is_dir());
    assert_eq!(fs::read(rootfs.join("kept/old")).unwrap(), b"old");
    assert_eq!(
        xattr::get(rootfs.join("replaced"), "trusted.overlay.opaque").unwrap(),
        None
    );
}

/// Sends the files while they may change, then `change`s them, then sends the rest.
fn carry_twice(from: &Host, to: &Host, change: impl FnOnce()) -> usize {
    let upper = from.dir.path().join("upper");
    // Longer than the clock of files takes for a step, so that all is settled.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let (bytes, sent) = pack_files(&from.places, &upper, None, Vec::new()).unwrap();
    unpack(&to.places, Kind::Files, bytes.as_slice()).unwrap();
    change();
    let rest = pack(&from.places, &upper, Some(&sent));
    unpack(&to.places, Kind::Checkpoint, rest.as_slice()).unwrap();
    rest.len()
}

#[test]
fn a_second_pass_sends_only_what_has_changed() {
    let (a, b) = (host(), host());
    let (here, there) = (&a.places.volumes["/data"], &b.places.volumes["/data"]);
    fs::create_dir_all(here.join("old/deep")).unwrap();
    for name in [
        "same",
        "grows",
        "goes",
        "moves",
        "linked",
        "old/file",
        "old/deep/x",
    ] {
        fs::write(here.join(name), vec![1; 1 << 20]).unwrap();
    }
    fs::create_dir(here.join("becomes-file")).unwrap();
    fs::write(here.join("becomes-file/child"), b"").unwrap();
    let bytes = carry_twice(&a, &b, || {
        use std::io::Write;
        let mut grows = fs::OpenOptions::new();
        let mut grows = grows.append(true).open(here.join("grows")).unwrap();
        grows.write_all(b"more").unwrap();
        fs::remove_file(here.join("goes")).unwrap();
        fs::rename(here.join("moves"), here.join("moved")).unwrap();
        fs::hard_link(here.join("linked"), here.join("link")).unwrap();
        fs::remove_dir_all(here.join("old")).unwrap();
        fs::create_dir(here.join("old")).unwrap();
        fs::write(here.join("old/new"), b"new").unwrap();
        fs::remove_dir_all(here.join("becomes-file")).unwrap();
        fs::write(here.join("becomes-file"), b"file").unwrap();
        fs::set_permissions(here.join("same"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(here.join("same"), fs::Permissions::from_mode(0o644)).unwrap();
    });
    assert_eq!(listing(here), listing(there));
    assert_eq!(fs::read(there.join("grows")).unwrap().len(), (1 << 20) + 4);
    assert_eq!(
        fs::metadata(there.join("link")).unwrap().ino(),
        fs::metadata(there.join("linked")).unwrap().ino()
    );
    assert!(bytes < 5 << 20, "{bytes} bytes");

    let (c, d) = (host(), host());
    fs::write(c.places.volumes["/data"].join("big"), vec![1; 1 << 20]).unwrap();
    assert!(carry_twice(&c, &d, || ()) < 1 << 16);
}

#[test]
fn what_goes_from_an_overlay_between_two_passes_goes() {
    let (a, b) = (host(), host());
    let upper = a.dir.path().join("upper");
    for base in [&upper, &a.places.rootfs] {
        fs::create_dir(base.join("dir")).unwrap();
        fs::write(base.join("dir/stays"), b"1").unwrap();
        fs::write(base.join("dir/goes"), b"1").unwrap();
    }
    carry_twice(&a, &b, || {
        for base in [&upper, &a.places.rootfs] {
            fs::remove_file(base.join("dir/goes")).unwrap();
        }
    });
    assert_eq!(listing(&upper), listing(&b.places.rootfs));
}

/// Names, times and contents below a directory.
fn listing(root: &Path) -> Vec<(PathBuf, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_file() {
                fs::read(&path).unwrap()
            } else {
                directories.push(path.clone());
                Vec::new()
            };
            let name = path.strip_prefix(root).unwrap().to_owned();
            found.push((name, metadata.mtime_nsec(), content));
        }
    }
    found.sort();
    found
}

fn archive_with(path: &str, entry_type: EntryType, link: Option<&str>) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    // Written straight into the header: the builder itself refuses such paths.
    header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
    if let Some(link) = link {
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
    }
    header.set_entry_type(entry_type);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    builder.append(&header, io::empty()).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn entries_cannot_leave_their_place() {
    let host = host();
    symlink(host.dir.path(), host.places.rootfs.join("out")).unwrap();
    for bytes in [
        archive_with("rootfs/../escaped", EntryType::Regular, None),
        archive_with("/etc/escaped", EntryType::Regular, None),
        archive_with("elsewhere/escaped", EntryType::Regular, None),
        archive_with("volumes/7/escaped", EntryType::Regular, None),
        archive_with("rootfs/out/escaped", EntryType::Regular, None),
        archive_with("rootfs/l", EntryType::Link, Some("rootfs/../../etc/passwd")),
        archive_with("rootfs/l", EntryType::Link, Some("shm/x")),
    ] {
        assert!(unpack(&host.places, Kind::Checkpoint, bytes.as_slice()).is_err());
    }
    assert!(!host.dir.path().join("escaped").exists());
}

#[test]
fn a_truncated_stream_is_an_error() {
    let (a, b) = (host(), host());
    fs::write(a.places.checkpoint.join("pages-1.img"), vec![7; 100_000]).unwrap();
    let upper = a.dir.path().join("upper");
    let bytes = pack(&a.places, &upper, None);
    assert!(unpack(&b.places, Kind::Checkpoint, &bytes[..50_000]).is_err());
}
