//! The kernels that virtual machines boot.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::emulator::{Emulator, OPTIONS, finish};
use crate::cache::{cached, debian};

/// Debian's own, without the drivers for real hardware.
const PACKAGES: &[&str] = &["linux-image-cloud-amd64"];

/// The kernel of a suite, unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    directory: PathBuf,
    version: OsString,
}

impl Kernel {
    /// Fetches it if there is none yet.
    pub(crate) fn get(suite: &str) -> Result<Self> {
        let recipe = format!("{suite} {PACKAGES:?} {OPTIONS:?}");
        let directory = cached("kernel", &recipe, |dir, lock| {
            let log = dir.with_extension("log");
            eprintln!(
                "unpacking the kernel of {suite}, once (log: {})",
                log.display()
            );
            debian(suite, dir, lock, OPTIONS, PACKAGES, &log)
        })?;
        let version = fs::read_dir(modules(&directory))?
            .next()
            .context("the package of the kernel has none")??
            .file_name();
        Ok(Self { directory, version })
    }

    /// Its directory, which identifies it in the recipe of a disk that it is on.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file to boot.
    pub(crate) fn image(&self) -> PathBuf {
        let with_modules = modules(&self.directory).join(&self.version).join("vmlinuz");
        if with_modules.exists() {
            return with_modules;
        }
        let mut name = OsString::from("vmlinuz-");
        name.push(&self.version);
        self.directory.join("boot").join(name)
    }

    /// Installs its modules into a root file system.
    pub(crate) fn install(&self, root: &Path, emulator: &Emulator) -> Result<()> {
        let mut copy = Command::new("cp");
        let modules = modules(&self.directory);
        finish(copy.arg("-a").arg(modules).arg(root.join("usr/lib/")))?;
        let mut depmod = emulator.program("usr/sbin/depmod");
        finish(depmod.arg("-b").arg(root).arg(&self.version))
    }
}

fn modules(directory: &Path) -> PathBuf {
    directory.join("usr/lib/modules")
}
