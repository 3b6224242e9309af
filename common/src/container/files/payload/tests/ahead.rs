//! What is sent while the container runs need not be sent again.

use std::io::Write as _;
use std::os::unix::fs::FileExt;

use super::*;

const BYTES: usize = 8 << 20;

/// Does not repeat itself from block to block.
fn content() -> Vec<u8> {
    (0..BYTES as u32 / 4)
        .flat_map(|n| n.wrapping_mul(n | 1).to_le_bytes())
        .collect()
}

fn writable(path: &Path) -> fs::File {
    fs::File::options().write(true).open(path).unwrap()
}

#[test]
fn of_a_large_file_only_what_has_changed() {
    type Change = fn(&Path);
    const CHANGES: [(&str, usize, Change); 8] = [
        ("nothing", 0, |_| ()),
        ("a byte", 1, |path| {
            writable(path).write_all_at(b"x", 5 << 20).unwrap();
        }),
        ("its length", 1, |path| {
            writable(path).set_len(3_000_001).unwrap()
        }),
        ("a longer length", 0, |path| {
            writable(path).set_len(20 << 20).unwrap()
        }),
        ("its end", 2, |path| {
            let mut file = fs::File::options().append(true).open(path).unwrap();
            file.write_all(&[9; 70_000]).unwrap();
        }),
        ("a part into zeros", 3, |path| {
            let file = writable(path);
            file.set_len(BYTES as u64 - 100_000).unwrap();
            file.set_len(BYTES as u64).unwrap();
        }),
        ("its mode", 0, |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
        }),
        ("its inode", 2 * BYTES, |path| {
            fs::remove_file(path).unwrap();
            fs::write(path, vec![1; BYTES]).unwrap();
        }),
    ];
    let memory = tempfile::tempdir_in("/dev/shm").ok();
    if memory.is_none() {
        println!("skipped in part: no /dev/shm");
    }
    for in_memory in [false, true] {
        for (what, blocks, change) in CHANGES {
            let (mut a, b) = (host(), host());
            if let Some(memory) = memory.as_ref().filter(|_| in_memory) {
                let directory = memory.path().join(what);
                fs::create_dir(&directory).unwrap();
                a.places.volumes.insert("/data".into(), directory);
            }
            let [here, there] = [&a, &b].map(|host| host.places.volumes["/data"].join("f"));
            fs::write(&here, content()).unwrap();
            let bytes = carry_twice(&a, &b, || change(&here));
            let case = format!("{what}, in memory: {in_memory}");
            assert!(
                fs::read(&here).unwrap() == fs::read(&there).unwrap(),
                "{case}"
            );
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&here), mode(&there), "{case}");
            let most = (blocks * (64 << 10) + (16 << 10)).min(BYTES + (64 << 10));
            assert!(bytes <= most, "{case}: {bytes} bytes");
        }
    }
}

#[test]
fn three_passes_build_on_each_other() {
    let (a, b) = (host(), host());
    let [here, there] = [&a, &b].map(|host| host.places.volumes["/data"].join("f"));
    fs::write(&here, content()).unwrap();
    let upper = a.dir.path().join("upper");
    let mut sent = None;
    for pass in 0..4u64 {
        let file = writable(&here);
        file.write_all_at(&pass.to_le_bytes(), pass << 20).unwrap();
        file.set_len(BYTES as u64 + pass * 300_000).unwrap();
        // Longer than the clock of files takes for a step: the next change is seen.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let (bytes, now) = pack_files(&a.places, &upper, sent.as_ref(), Vec::new()).unwrap();
        unpack(&b.places, Kind::Files, bytes.as_slice()).unwrap();
        assert!(
            fs::read(&here).unwrap() == fs::read(&there).unwrap(),
            "{pass}"
        );
        assert!(
            pass == 0 || bytes.len() < 200 << 10,
            "{} bytes",
            bytes.len()
        );
        sent = Some(now);
    }
}

#[test]
fn of_shared_memory_only_what_has_changed() {
    let (a, b) = (host(), host());
    let [here, there] = [&a, &b].map(|host| host.places.shm.clone().unwrap());
    fs::write(here.join("large"), content()).unwrap();
    fs::write(here.join("small"), "before").unwrap();
    let bytes = carry_twice(&a, &b, || {
        writable(&here.join("large")).write_all_at(b"x", 9).unwrap();
        fs::write(here.join("small"), "after").unwrap();
    });
    assert_eq!(listing(&here), listing(&there));
    assert!(bytes < 100 << 10, "{bytes} bytes");
}

#[test]
fn of_the_log_only_what_is_new() {
    let (a, b) = (host(), host());
    let append = |bytes: &[u8]| {
        let mut options = fs::File::options();
        let mut log = options
            .append(true)
            .create(true)
            .open(&a.places.log)
            .unwrap();
        log.write_all(bytes).unwrap();
    };
    append(&content());
    let bytes = carry_twice(&a, &b, || append(b"more"));
    assert_eq!(
        fs::read(&a.places.log).unwrap(),
        fs::read(&b.places.log).unwrap()
    );
    assert!(bytes < 16 << 10, "{bytes} bytes");

    // It has grown too long meanwhile, and conmon has begun another.
    let bytes = carry_twice(&a, &b, || {
        let new = a.dir.path().join("new");
        fs::write(&new, content().repeat(2)).unwrap();
        fs::rename(&new, &a.places.log).unwrap();
    });
    assert_eq!(
        fs::read(&a.places.log).unwrap(),
        fs::read(&b.places.log).unwrap()
    );
    assert!(bytes > 2 * BYTES);
}

#[test]
fn what_podman_does_to_a_volume_that_it_first_uses_is_undone() {
    let (a, b) = (host(), host());
    let [here, there] = [&a, &b].map(|host| host.places.volumes.clone());
    fs::write(here["/data"].join("f"), "f").unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&here["/data"], 0o711);
    mode(&here["/x"], 0o700);
    std::thread::sleep(std::time::Duration::from_millis(50));
    let (bytes, sent) = pack_volumes(&here, None, Vec::new()).unwrap();
    unpack_volumes(&there, bytes.as_slice()).unwrap();

    // It gives the volume the owner and mode of the directory in the image, and an empty one its files.
    mode(&there["/data"], 0o755);
    mode(&there["/x"], 0o755);
    fs::write(there["/x"].join("of the image"), "").unwrap();

    let upper = a.dir.path().join("upper");
    let rest = pack(&a.places, &upper, Some(&sent));
    unpack(&b.places, Kind::Checkpoint, rest.as_slice()).unwrap();
    for volume in ["/data", "/x"] {
        assert_eq!(listing(&here[volume]), listing(&there[volume]));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&here[volume]), mode(&there[volume]), "{volume}");
    }
}
