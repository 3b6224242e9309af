//! A place for a target that writes files: a thread with a root directory of its own, in memory, out of
//! which no path leads.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A thread that does something with each input, one at a time.
pub(crate) struct Sandbox {
    inputs: SyncSender<Vec<u8>>,
    done: Receiver<()>,
}

impl Sandbox {
    /// A thread that calls `work` with each input.
    ///
    /// # Panics
    /// Without root.
    pub(crate) fn new(work: fn(&[u8])) -> Self {
        let (inputs, next) = sync_channel::<Vec<u8>>(0);
        let (finished, done) = sync_channel(0);
        thread::spawn(move || {
            enter().expect("root can make a place of its own");
            for input in next {
                work(&input);
                if finished.send(()).is_err() {
                    return;
                }
            }
        });
        Sandbox { inputs, done }
    }

    pub(crate) fn run(&self, input: &[u8]) {
        // A panic in the thread ends the process before it could be seen here.
        self.inputs
            .send(input.to_owned())
            .expect("the thread lives");
        self.done.recv().expect("the thread lives");
    }
}

/// Gives this thread a file system in memory as its root directory. Nothing else is in it but the open
/// files of the process, by which unpacking reaches what it has opened. Devices in it are none.
fn enter() -> nix::Result<()> {
    let root = tempfile::tempdir().expect("a directory can be made").keep();
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)?;
    let none = None::<&Path>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), &root, Some("tmpfs"), flags, Some("size=64m"))?;
    let open_files = root.join("proc/self/fd");
    fs::create_dir_all(&open_files).expect("the file system is writable");
    mount(
        Some("/proc/self/fd"),
        &open_files,
        none,
        MsFlags::MS_BIND,
        none,
    )?;
    fs::create_dir(root.join("tmp")).expect("the file system is writable");
    nix::unistd::chroot(&root)?;
    nix::unistd::chdir("/")
}
