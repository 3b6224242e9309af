//! The disks that virtual machines start from, and the kernels to start them with.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::emulator::{Emulator, finish};
use super::kernel::Kernel;
use super::system;
use crate::cache::{SUITE, cached};
use crate::{Distribution, rootfs};

/// What they need in addition to namespace hosts.
const PACKAGES: &[&str] = &["kmod"];

/// The size of the disk, most of it holes.
const SIZE: &str = "8G";

/// The first process, until the lab's own program takes over: that comes on a second disk, because it
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

/// Where that is.
pub(super) const INIT_PATH: &str = "usr/sbin/lab-init";

/// There are cgroup controllers, so Podman's own limits work.
const NO_LIMIT: &str = "pids_limit = 0\n";

/// A disk, and the kernel whose modules are on it.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    directory: PathBuf,
    kernel: Kernel,
}

impl Image {
    /// The disk of hosts with the lab's own init. Builds it if there is none yet.
    pub(crate) fn bare(emulator: &Emulator) -> Result<Self> {
        let recipe = format!("{} {PACKAGES:?} {INIT}", rootfs::recipe());
        Self::get(emulator, SUITE, &recipe, |root, lock, log| {
            let packages = [rootfs::PACKAGES, PACKAGES].concat();
            rootfs::build(root, lock, &packages, log)?;
            write_init(root, INIT)?;
            let settings = root.join("etc/containers/containers.conf");
            let limited = fs::read_to_string(&settings)?.replace(NO_LIMIT, "");
            Ok(fs::write(&settings, limited)?)
        })
    }

    /// The disk of hosts with a distribution's defaults. Builds it if there is none yet.
    pub(crate) fn of(distribution: Distribution, emulator: &Emulator) -> Result<Self> {
        let suite = distribution.suite.name();
        let recipe = system::recipe(distribution);
        Self::get(emulator, suite, &recipe, |root, lock, log| {
            system::build(distribution, root, lock, log)
        })
    }

    fn get(
        emulator: &Emulator,
        suite: &str,
        recipe: &str,
        build: impl FnOnce(&Path, &File, &Path) -> Result<()>,
    ) -> Result<Self> {
        let kernel = Kernel::get(suite)?;
        let (tools, modules) = (emulator.path(""), kernel.directory());
        let recipe = format!("{recipe} {SIZE} {} {}", tools.display(), modules.display());
        let directory = cached("machine", &recipe, |dir, lock| {
            let log = dir.with_extension("log");
            eprintln!(
                "building a disk of virtual machines, once (log: {})",
                log.display()
            );
            fs::create_dir_all(dir)?;
            let root = dir.join("root");
            build(&root, lock, &log)?;
            kernel.install(&root, emulator)?;

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
        Ok(Self { directory, kernel })
    }

    /// The kernel.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.kernel.image()
    }

    /// The disk, never written to.
    pub(crate) fn disk(&self) -> PathBuf {
        self.directory.join("disk")
    }
}

/// Makes a script the first process of a root file system.
pub(super) fn write_init(root: &Path, script: &str) -> Result<()> {
    let init = root.join(INIT_PATH);
    fs::write(&init, script)?;
    Ok(fs::set_permissions(
        &init,
        fs::Permissions::from_mode(0o755),
    )?)
}
