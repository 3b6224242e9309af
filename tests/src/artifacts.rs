//! What goes into the hosts, built when it is first asked for and never older than its source.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, ensure};
use lab::Kind;
use serde_json::Value;

use crate::kind;

/// The systemd unit of `agent-server`.
pub(crate) fn unit() -> PathBuf {
    workspace().join("dist/agent-server.service")
}

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Builds everything for hosts with these images.
pub(crate) fn build<'a>(images: impl Iterator<Item = &'a &'a str>) {
    agents();
    workloads();
    images.for_each(|name| {
        image(name);
    });
}

/// The programs `agent-client` and `agent-server`. Cargo is asked once per run, because a test
/// package cannot depend on another package's programs: it would be unclear who built them, and
/// when.
pub(crate) fn agents() -> &'static [PathBuf] {
    static AGENTS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    AGENTS.get_or_init(|| build_agents(&[]).expect("the agents build"))
}

/// The same with failpoints, built in a directory of their own: otherwise the two builds would
/// replace each other.
pub(crate) fn fragile_agents() -> &'static [PathBuf] {
    static AGENTS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    AGENTS.get_or_init(|| {
        let features = "agent-client/failpoints,agent-server/failpoints";
        let options = ["--features", features, "--target-dir", "target/faults"];
        build_agents(&options).expect("the agents build")
    })
}

fn build_agents(options: &[&str]) -> Result<Vec<PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--locked", "--bins"])
        .args(["--message-format=json-render-diagnostics"])
        .args(["--package", "agent-client", "--package", "agent-server"])
        .args(options)
        .current_dir(workspace())
        .stderr(Stdio::inherit());
    // Cargo has set these for the tests' own package. Build scripts that read them would run again,
    // and everything that depends on them would be rebuilt, each time the agents are built in
    // another way.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo build: {}", output.status);

    let programs: Vec<PathBuf> = String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| Some(message["executable"].as_str()?.into()))
        .collect();
    ensure!(programs.len() == 2, "not two programs: {programs:?}");
    match kind() {
        Kind::Namespaces | Kind::Disk | Kind::Services => Ok(programs),
        Kind::Machine | Kind::Systemd(_) => {
            programs.iter().map(|program| stripped(program)).collect()
        }
    }
}

/// A program without debug information, which would take longest of all to copy into a virtual
/// machine. In a directory beside the original, and up to date.
fn stripped(program: &Path) -> Result<PathBuf> {
    let (directory, name) = program
        .parent()
        .zip(program.file_name())
        .context("a program has a place and a name")?;
    let stripped = directory.join("stripped").join(name);
    fs::create_dir_all(directory.join("stripped"))?;
    let new = stripped.with_extension(std::process::id().to_string());
    let status = Command::new("strip")
        .arg("-o")
        .args([new.as_path(), program])
        .status()
        .context("cannot start strip")?;
    ensure!(status.success(), "strip: {status}");
    fs::rename(new, &stripped)?;
    Ok(stripped)
}

/// The directory that holds the static workloads and `load`.
pub(crate) fn workloads() -> &'static Path {
    static WORKLOADS: OnceLock<PathBuf> = OnceLock::new();
    WORKLOADS.get_or_init(|| {
        let output = Command::new(workspace().join("examples/build-static"))
            .stderr(Stdio::inherit())
            .output()
            .expect("examples/build-static starts");
        assert!(output.status.success(), "examples/build-static failed");
        String::from_utf8_lossy(&output.stdout).trim().into()
    })
}

/// The archive of an example's image.
pub(crate) fn image(name: &str) -> PathBuf {
    static KNOWN: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    known
        .entry(name.to_owned())
        .or_insert_with(|| build_image(name).expect("the image builds"))
        .clone()
}

/// Builds it unless it is newer than everything it is made from. Only one at a time.
fn build_image(name: &str) -> Result<PathBuf> {
    let directory = workspace().join("target/images");
    fs::create_dir_all(&directory)?;
    let lock = File::create(directory.join("lock"))?;
    lock.lock()?;

    let examples = workspace().join("examples");
    let archive = directory.join(format!("{name}.tar"));
    let directory_of = |file: &str| examples.join(name).join(file);
    let mut made_of = vec![examples.join("build-image"), directory_of("image.json")];
    if directory_of("packages").exists() {
        made_of.push(directory_of("packages"));
        made_of.extend(files(&directory_of("files"))?);
    } else if directory_of("debian").exists() {
        made_of.push(directory_of("debian"));
    } else {
        made_of.push(workloads().join(name));
    }
    let made = fs::metadata(&archive).and_then(|m| m.modified()).ok();
    let mut fresh = made.is_some();
    for source in made_of {
        let changed = fs::metadata(&source)
            .and_then(|m| m.modified())
            .with_context(|| source.display().to_string())?;
        fresh &= made > Some(changed);
    }
    if !fresh {
        let new = directory.join(format!("{name}.new"));
        let status = Command::new(examples.join("build-image"))
            .arg(name)
            .arg("--output")
            .arg(&new)
            .status()?;
        ensure!(status.success(), "examples/build-image {name} failed");
        fs::rename(new, &archive)?;
    }
    Ok(archive)
}

/// A directory and all that is in it.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![directory.to_owned()];
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}
