//! The kernel and the disk that virtual machines start from.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::emulator::{Emulator, finish};
use crate::cache::cached;
use crate::rootfs;

/// More than namespace hosts need.
const PACKAGES: &[&str] = &["kmod"];

/// How large the disk is, most of it holes.
const SIZE: &str = "8G";

/// The first process, until the lab's own program can be one: that comes on a second disk, because it
/// changes more often than this one.
const INIT: &str = "\
#!/bin/sh -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
mount -t devtmpfs devtmpfs /dev
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
modprobe virtio_blk
mkdir /run/lab
tar -C /run/lab -xf /dev/vda
exec /run/lab/lab machine init
";

/// There are controllers, so Podman's own limits hold.
const NO_LIMIT: &str = "pids_limit = 0\n";

/// The directory of the two.
#[derive(Debug, Clone)]
pub(crate) struct Image(PathBuf);

impl Image {
    /// Builds it if there is none yet.
    pub(crate) fn get(emulator: &Emulator) -> Result<Self> {
        let recipe = format!(
            "{} {PACKAGES:?} {SIZE} {INIT} {}",
            rootfs::recipe(),
            emulator.path("").display()
        );
        let dir = cached("machine", &recipe, |dir, lock| {
            let log = dir.with_extension("log");
            eprintln!(
                "building the disk of virtual machines, once (log: {})",
                log.display()
            );
            fs::create_dir_all(dir)?;
            let root = dir.join("root");
            let packages = [rootfs::PACKAGES, PACKAGES].concat();
            rootfs::build(&root, lock, &packages, &log)?;

            let init = root.join("usr/sbin/lab-init");
            fs::write(&init, INIT)?;
            fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
            let settings = root.join("etc/containers/containers.conf");
            let limited = fs::read_to_string(&settings)?.replace(NO_LIMIT, "");
            fs::write(&settings, limited)?;

            let modules = emulator.path("usr/lib/modules");
            let version = fs::read_dir(&modules)?
                .next()
                .context("the emulator's packages have no kernel")??
                .file_name();
            fs::copy(modules.join(&version).join("vmlinuz"), dir.join("vmlinuz"))?;
            let mut copy = std::process::Command::new("cp");
            finish(copy.arg("-a").arg(&modules).arg(root.join("usr/lib/")))?;
            let mut depmod = emulator.program("usr/sbin/depmod");
            finish(depmod.arg("-b").arg(&root).arg(&version))?;

            let mut mke2fs = emulator.program("usr/sbin/mke2fs");
            mke2fs
                .env("MKE2FS_CONFIG", emulator.path("etc/mke2fs.conf"))
                .args(["-q", "-t", "ext4", "-d"])
                .arg(&root)
                .arg(dir.join("disk"))
                .arg(SIZE);
            finish(&mut mke2fs)?;
            fs::remove_dir_all(&root).context("cannot remove what the disk was made of")
        })?;
        Ok(Self(dir))
    }

    /// The kernel.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.0.join("vmlinuz")
    }

    /// The disk, never written to.
    pub(crate) fn disk(&self) -> PathBuf {
        self.0.join("disk")
    }
}
