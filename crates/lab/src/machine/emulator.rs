//! QEMU and the other tools that virtual machines are made with, from the same suite as the hosts:
//! the machine need not have them, and the version is the same everywhere.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{SUITE, cached, debian};

const PACKAGES: &[&str] = &["e2fsprogs", "kmod", "qemu-system-x86", "qemu-utils"];

/// Unpacked only: it is never the root of a process.
pub(super) const OPTIONS: &[&str] = &[
    "--variant=extract",
    "--aptopt=Apt::Install-Recommends \"false\"",
];

/// The directory that its packages were unpacked into.
#[derive(Debug, Clone)]
pub(crate) struct Emulator(PathBuf);

impl Emulator {
    /// Builds it if there is none yet.
    pub(crate) fn get() -> Result<Self> {
        let recipe = format!("{SUITE} {PACKAGES:?} {OPTIONS:?}");
        let dir = cached("emulator", &recipe, |dir, lock| {
            let log = dir.with_extension("log");
            eprintln!("unpacking an emulator, once (log: {})", log.display());
            debian(SUITE, dir, lock, OPTIONS, PACKAGES, &log)
        })?;
        Ok(Self(dir))
    }

    /// The path of one of its files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// One of its programs, run with its own libraries rather than the machine's.
    pub(crate) fn program(&self, path: &str) -> Command {
        let mut libraries = OsString::new();
        for directory in ["usr/lib/x86_64-linux-gnu", "usr/lib"] {
            libraries.push(self.path(directory));
            libraries.push(":");
        }
        let name = Path::new(path).file_name().unwrap_or_default();
        let mut command = Command::new(self.path("usr/lib64/ld-linux-x86-64.so.2"));
        command
            .arg0(name)
            .arg("--library-path")
            .arg(libraries)
            .arg("--argv0")
            .arg(name)
            .arg(self.path(path));
        command
    }
}

/// Runs a program to its end; if it fails, the error contains what it printed.
pub(crate) fn finish(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}\n{}", output.status, said.trim());
    }
    Ok(())
}
