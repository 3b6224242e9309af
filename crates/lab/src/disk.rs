//! A disk that forgets what was not synced: a file with a file system of its own, for a host of namespaces.
//!
//! The machine's own file system outlives a host that is killed, with everything that the host has written, synced or
//! not. So a host that is to lose power has an ext4 of its own on a loop device, mounted in its namespace alone. A
//! power cut is ext4's own shutdown, which tests of file systems use for that: from that moment on nothing more is
//! written, neither data nor journal, and what was only in the kernel's memory is dropped. At the next boot the journal
//! is recovered. What was written to the device is in the file.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// The size, most of it holes.
const SIZE: u64 = 8 << 30;

/// The journal is written when somebody syncs, and not every five seconds. (The kernel still writes data that has been
/// dirty for half a minute: that setting is one for the whole machine.)
const OPTIONS: &str = "loop,commit=3600";

/// How long a file system may take to go after the last process that saw it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Of `EXT4_IOC_SHUTDOWN`, from the kernel's fs/ext4/ext4.h: the journal is not written first.
const WITHOUT_JOURNAL: u32 = 2;

// The header says that it reads; the kernel takes the flags from there.
nix::ioctl_write_ptr_bad!(shut_down, nix::request_code_read!(b'X', 125, 4), u32);

/// Makes the disk, empty, unless there is one.
pub(crate) fn make(image: &Path) -> Result<()> {
    if image.exists() {
        return Ok(());
    }
    let new = image.with_extension("new");
    File::create(&new)?.set_len(SIZE)?;
    let mut mke2fs = Command::new("mke2fs");
    run(mke2fs.args(["-q", "-F", "-t", "ext4"]).arg(&new))?;
    Ok(fs::rename(new, image)?)
}

/// Mounts the disk in the calling thread's mount namespace, from which nothing may propagate. The loop device goes
/// with the mount.
pub(crate) fn attach(image: &Path, at: &Path) -> Result<()> {
    fs::create_dir_all(at)?;
    run(Command::new("mount")
        .args(["-t", "ext4", "-o", OPTIONS])
        .arg(image)
        .arg(at))
}

/// Cuts the power of the disk on which a directory is: what has not been written to it by now never will be.
pub(crate) fn cut(directory: &Path) -> Result<()> {
    let what = || {
        format!(
            "cannot shut the file system of {} down",
            directory.display()
        )
    };
    let directory = File::open(directory).with_context(what)?;
    // SAFETY: the descriptor is open, and the value live and of the right type.
    unsafe {
        shut_down(
            std::os::fd::AsRawFd::as_raw_fd(&directory),
            &WITHOUT_JOURNAL,
        )
    }
    .with_context(what)?;
    Ok(())
}

/// Waits until the disk is mounted nowhere.
pub(crate) fn wait_until_free(image: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while is_attached(image)? {
        if Instant::now() > deadline {
            bail!("{} is still mounted", image.display());
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn is_attached(image: &Path) -> Result<bool> {
    for device in fs::read_dir("/sys/block")? {
        let file = device?.path().join("loop/backing_file");
        // Missing for what is no loop device, and for one without a file.
        if fs::read_to_string(file).is_ok_and(|file| Path::new(file.trim_end()) == image) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        said.trim()
    );
    Ok(())
}
