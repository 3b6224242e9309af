//! What goes into the hosts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The programs, and where the images of the examples are built.
pub(crate) struct Artifacts {
    /// Where the agents and `by-hand` are: beside this program.
    programs: PathBuf,
    /// The static `load`.
    pub(crate) load: PathBuf,
    images: tempfile::TempDir,
}

impl Artifacts {
    /// Finds what `scripts/bench` has built, and builds the rest.
    pub(crate) fn gather() -> Result<Self> {
        let mut programs = std::env::current_exe()?;
        programs.pop();
        let output = Command::new(example_script("build-static"))
            .stderr(Stdio::inherit())
            .output()
            .context("examples/build-static")?;
        ensure!(output.status.success(), "examples/build-static failed");
        let directory = String::from_utf8(output.stdout)?;
        Ok(Self {
            programs,
            load: Path::new(directory.trim()).join("load"),
            images: tempfile::tempdir()?,
        })
    }

    /// A program of this workspace, from the same build profile as this one.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.join(name);
        ensure!(
            path.exists(),
            "{} is missing: scripts/bench builds it",
            path.display()
        );
        Ok(path)
    }

    /// The archive of an example's image.
    pub(crate) fn image(&self, name: &str) -> Result<PathBuf> {
        let archive = self.images.path().join(name).with_extension("tar");
        let status = Command::new(example_script("build-image"))
            .arg(name)
            .arg("--output")
            .arg(&archive)
            .status()
            .context("examples/build-image")?;
        ensure!(status.success(), "examples/build-image {name} failed");
        Ok(archive)
    }
}

fn example_script(name: &str) -> PathBuf {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    Path::new(examples).join(name)
}
