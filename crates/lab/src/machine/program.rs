//! The program `lab`, which is both the agent in a virtual machine and the keeper of its commands.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// Where it is. If the caller is not that program itself, cargo is asked, once.
///
/// # Panics
/// If it does not build.
pub(crate) fn lab() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| find().expect("the program `lab` can be had"))
}

fn find() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    if own.file_name().is_some_and(|name| name == "lab") {
        return Ok(own);
    }
    // Tests are in a directory beside the programs.
    let directory = own.parent().and_then(|deps| deps.parent());
    let program = directory.context("no directory of programs")?.join("lab");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--locked", "--package", "lab"])
        .args(["--bin", "lab"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo build: {status}");
    ensure!(program.exists(), "no {}", program.display());
    Ok(program)
}
