use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long killed processes may take to disappear.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of the cgroup2 hierarchy; the v1 hierarchies are never touched.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// The cgroup under which a lab keeps everything it runs. Nothing is created.
    pub(crate) fn of_lab(lab: &str) -> Result<Self> {
        Ok(Self(hierarchy()?.join("live-migration-lab").join(lab)))
    }

    /// The cgroup of this directory.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn child(&self, name: &str) -> Self {
        Self(self.0.join(name))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("cannot create {}", self.0.display()))
    }

    /// A file that moves into the cgroup whoever writes `0` to it.
    pub(crate) fn entrance(&self) -> Result<File> {
        let path = self.0.join("cgroup.procs");
        File::options()
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))
    }

    /// The processes in it (not in its children), by their ids on the machine; none if it does not
    /// exist.
    pub(crate) fn processes(&self) -> Vec<i32> {
        fs::read_to_string(self.0.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect()
    }

    /// Kills everything that runs in it and below it, frozen or not, and removes it.
    pub(crate) fn destroy(&self) -> Result<()> {
        match fs::write(self.0.join("cgroup.kill"), "1") {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            done => done.with_context(|| format!("cannot kill {}", self.0.display()))?,
        }
        let deadline = Instant::now() + PATIENCE;
        while let Err(e) = remove_tree(&self.0) {
            if Instant::now() > deadline {
                bail!("cannot remove {}: {e}", self.0.display());
            }
            sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Removes a cgroup after its children; fails with EBUSY while any of them still has a process.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// Where the machine has its cgroup2 hierarchy: `/sys/fs/cgroup`, or a directory in it beside v1.
fn hierarchy() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let path = mounts
        .lines()
        .map(|line| line.split(' '))
        .find_map(|mut fields| {
            let at = fields.nth(1)?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(at))
        })
        .context("no cgroup2 hierarchy is mounted on this machine")?;
    ensure!(
        path.join("cgroup.procs").exists(),
        "{} is not readable",
        path.display()
    );
    Ok(path)
}
