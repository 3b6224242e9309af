//! What file systems a host sees. All of it exists only in the host's mount namespace.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{chdir, pivot_root};

use crate::disk;

/// Where the kernel lists the numbers of its miscellaneous devices.
const MISC_DEVICES: &str = "/proc/misc";

/// Directories of a host's disk: on the machine's own file system, or on one of its own.
const DISK: [&str; 4] = ["upper", "work", "root", "containers"];

/// Where Podman's store is, the one place in a host that shows a directory of its disk as it is.
pub(crate) const STORE: &str = "/var/lib/containers";

/// Makes `disk` on top of `rootfs` the root of the calling thread's mount namespace, which must be
/// new: nothing of the machine's tree stays visible. If there is an `image`, that is what is at `disk`.
/// `/proc` and `/sys/fs/cgroup` stay empty: what they show depends on who mounts them, so the host's
/// init does that.
pub(crate) fn enter_root(disk: &Path, image: Option<&Path>, rootfs: &Path) -> Result<()> {
    let misc = fs::read_to_string(MISC_DEVICES).context(MISC_DEVICES)?;
    // Before anything else: no mount below may propagate to the machine.
    attach("none", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")?;

    if let Some(image) = image {
        disk::attach(image, disk)?;
    }
    for directory in DISK {
        fs::create_dir_all(disk.join(directory))?;
    }
    let at = |name| disk.join(name).display().to_string();
    let root = at("root");
    attach(
        "overlay",
        &root,
        "overlay",
        MsFlags::empty(),
        &format!(
            "lowerdir={},upperdir={},workdir={}",
            rootfs.display(),
            at("upper"),
            at("work")
        ),
    )?;
    // Podman's overlay driver cannot use a directory on an overlay as its upper layer.
    let store = format!("{root}{STORE}");
    fs::create_dir_all(&store)?;
    attach(&at("containers"), &store, "", MsFlags::MS_BIND, "")?;

    chdir(root.as_str())?;
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot let go of the machine's root")?;
    chdir("/")?;

    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    attach("sysfs", "/sys", "sysfs", quiet | MsFlags::MS_NOEXEC, "")?;
    attach("tmpfs", "/run", "tmpfs", quiet, "mode=755")?;
    attach("tmpfs", "/tmp", "tmpfs", quiet, "mode=1777")?;
    devices(&misc)?;
    // As systemd sets it up on a real host.
    attach("none", "/", "", MsFlags::MS_REC | MsFlags::MS_SHARED, "")
}

/// The host's own `/dev`, with the few devices that Podman, CRIU and tunnels need.
fn devices(misc: &str) -> Result<()> {
    attach("tmpfs", "/dev", "tmpfs", MsFlags::MS_NOSUID, "mode=755")?;
    for directory in ["/dev/net", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        fs::create_dir(directory)?;
    }
    let old = umask(Mode::empty());
    let misc = |name: &str| misc_number(misc, name).map(|minor| (10, minor));
    for (path, numbers) in [
        ("/dev/null", Some((1, 3))),
        ("/dev/zero", Some((1, 5))),
        ("/dev/full", Some((1, 7))),
        ("/dev/random", Some((1, 8))),
        ("/dev/urandom", Some((1, 9))),
        ("/dev/tty", Some((5, 0))),
        ("/dev/net/tun", Some((10, 200))),
        ("/dev/fuse", Some((10, 229))),
        ("/dev/userfaultfd", misc("userfaultfd")),
    ] {
        if let Some((major, minor)) = numbers {
            let mode = Mode::from_bits_truncate(0o666);
            mknod(path, SFlag::S_IFCHR, mode, makedev(major, minor)).context(path)?;
        }
    }
    umask(old);
    for (target, link) in [
        ("pts/ptmx", "/dev/ptmx"),
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        symlink(target, link).context(link)?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let terminals = "newinstance,gid=5,mode=620,ptmxmode=666";
    attach("devpts", "/dev/pts", "devpts", quiet, terminals)?;
    let quiet = quiet | MsFlags::MS_NODEV;
    attach("mqueue", "/dev/mqueue", "mqueue", quiet, "")?;
    attach(
        "tmpfs",
        "/dev/shm",
        "tmpfs",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=1777",
    )
}

/// The minor number that `/proc/misc` gives for a device, if the kernel has it.
fn misc_number(misc: &str, name: &str) -> Option<u64> {
    misc.lines().find_map(|line| {
        let (minor, device) = line.trim().split_once(' ')?;
        (device == name).then(|| minor.parse().ok())?
    })
}

/// mount(2) with an error that names the place.
pub(crate) fn attach(
    source: &str,
    at: &str,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> Result<()> {
    mount(Some(source), at, Some(kind), flags, Some(options))
        .with_context(|| format!("cannot mount {source} on {at}"))
}

#[cfg(test)]
mod tests {
    use super::misc_number;

    #[test]
    fn finds_a_misc_device_by_its_whole_name() {
        let misc = "257 userfaultfd\n229 fuse\n  1 psaux\n";
        assert_eq!(misc_number(misc, "userfaultfd"), Some(257));
        assert_eq!(misc_number(misc, "psaux"), Some(1));
        assert_eq!(misc_number(misc, "fus"), None);
    }
}
