//! Files that change while they are packed, and those of which nobody can tell that they do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;

#[test]
fn what_takes_the_place_of_a_file_leads_nowhere() {
    const SECRET: &[u8] = b"what only the host may read";
    let a = host();
    let outside = a.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f"), SECRET.repeat(100)).unwrap();
    let data = a.places.volumes["/data"].clone();
    fs::create_dir(data.join("d")).unwrap();
    for name in ["d/f", "f", "g"] {
        fs::write(data.join(name), "the container's").unwrap();
    }
    symlink(&outside, data.join("spare d")).unwrap();
    nix::unistd::mkfifo(&data.join("spare f"), Mode::S_IRWXU).unwrap();
    symlink(outside.join("f"), data.join("spare g")).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let exchanger = {
        let (data, over) = (data.clone(), over.clone());
        std::thread::spawn(move || {
            use nix::fcntl::{RenameFlags, renameat2};
            let root = fs::File::open(&data).unwrap();
            while !over.load(Ordering::Relaxed) {
                for (name, spare) in [("d", "spare d"), ("f", "spare f"), ("g", "spare g")] {
                    renameat2(&root, name, &root, spare, RenameFlags::RENAME_EXCHANGE).unwrap();
                }
            }
        })
    };
    let (done, packed) = std::sync::mpsc::channel();
    let places = a.places.clone();
    let upper = a.dir.path().join("upper");
    std::thread::spawn(move || {
        let until = Instant::now() + Duration::from_secs(2);
        let mut sent = None;
        let mut streams = Vec::new();
        while Instant::now() < until {
            let (bytes, so_far) = pack_files(&places, &upper, sent.as_ref(), Vec::new()).unwrap();
            sent = Some(so_far);
            streams.push(bytes);
        }
        done.send(streams).unwrap();
    });
    let streams = packed.recv_timeout(Duration::from_secs(20));
    over.store(true, Ordering::Relaxed);
    exchanger.join().unwrap();
    let streams = streams.expect("a pass waits for ever");
    assert!(streams.len() > 10, "{} passes", streams.len());
    for bytes in streams {
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET));
    }
}

#[test]
fn holes_take_no_room_on_the_way_and_at_the_end() {
    let (a, b) = (host(), host());
    let [here, there] = [&a, &b].map(|host| host.places.volumes["/data"].join("sparse"));
    let file = fs::File::create(&here).unwrap();
    file.set_len(256 << 20).unwrap();
    let upper = a.dir.path().join("upper");
    let (bytes, _) = pack_files(&a.places, &upper, None, Vec::new()).unwrap();
    assert!(bytes.len() < 64 << 10, "{} bytes", bytes.len());
    unpack(&b.places, Kind::Files, bytes.as_slice()).unwrap();
    let arrived = fs::metadata(&there).unwrap();
    assert_eq!((arrived.len(), arrived.blocks()), (256 << 20, 0));
}

#[test]
fn a_name_in_a_directory_that_was_renamed_is_of_the_same_file_still() {
    for renamed in ["a", "z"] {
        let (a, b) = (host(), host());
        let [here, there] = [&a, &b].map(|host| host.places.volumes["/data"].clone());
        for directory in ["m", "n"] {
            fs::create_dir(here.join(directory)).unwrap();
        }
        fs::write(here.join("m/f"), "content").unwrap();
        fs::hard_link(here.join("m/f"), here.join("n/f")).unwrap();
        carry_twice(&a, &b, || {
            fs::rename(here.join("m"), here.join(renamed)).unwrap();
        });
        let inode = |name: &str| fs::metadata(there.join(name)).unwrap().ino();
        assert_eq!(inode(&format!("{renamed}/f")), inode("n/f"));
        assert!(!there.join("m").exists());
    }
}

/// A file that is written to through a mapping.
struct Mapped(*mut u8);

impl Mapped {
    fn new(file: &fs::File) -> Self {
        use std::os::fd::AsRawFd;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, of a file that stays as long as it is.
        let at = unsafe {
            let null = std::ptr::null_mut();
            libc::mmap(
                null,
                4096,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        Mapped(at.cast())
    }

    fn write(&self, byte: u8) {
        // SAFETY: within the mapping, and of this thread alone.
        unsafe { self.0.write_volatile(byte) };
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's.
        unsafe { libc::munmap(self.0.cast(), 4096) };
    }
}

/// Has a file changed twice through a mapping, before and after a pass. `at`: where it is seen.
fn changes_unseen(a: &Host, at: &Path, arrived: impl Fn(&Host) -> PathBuf) {
    let b = host();
    fs::write(at, vec![b'0'; 4096]).unwrap();
    let file = fs::File::options().read(true).write(true).open(at).unwrap();
    file.sync_all().unwrap();
    let mapped = Mapped::new(&file);
    mapped.write(b'1');
    carry_twice(a, &b, || mapped.write(b'2'));
    assert_eq!(fs::read(arrived(&b)).unwrap()[0], b'2');
}

#[test]
fn a_mapping_of_a_file_in_memory_is_not_trusted() {
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: no /dev/shm");
        return;
    };
    let mut a = host();
    let volume = memory.path().to_owned();
    a.places.volumes.insert("/data".into(), volume.clone());
    changes_unseen(&a, &volume.join("f"), |b| {
        b.places.volumes["/data"].join("f")
    });
}

#[test]
fn a_mapping_of_a_file_on_a_volatile_overlay_is_seen_to_change() {
    let run = || {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        let none: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        // Not on an overlay: it would be one too many.
        let a = host();
        let at = |name: &str| a.dir.path().join(name);
        fs::create_dir(at("work")).unwrap();
        fs::create_dir(at("lower")).unwrap();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},volatile",
            at("lower").display(),
            at("upper").display(),
            at("work").display()
        );
        let rootfs = &a.places.rootfs;
        mount(
            Some("overlay"),
            rootfs,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )?;
        changes_unseen(&a, &rootfs.join("f"), |b| b.places.rootfs.join("f"));
        nix::mount::umount(rootfs)
    };
    // In a thread of its own, whose mounts nobody else sees.
    match std::thread::spawn(run).join().expect("it arrives") {
        Ok(()) => {}
        Err(error) => println!("skipped: no volatile overlays here: {error}"),
    }
}
