//! What is built once per machine and shared by all labs.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const CACHE: &str = "/var/cache/live-migration-lab";

/// The Debian suite of all hosts that do not have a distribution's defaults: the oldest whose CRIU
/// works on current kernels.
pub(crate) const SUITE: &str = "forky";

/// Asks the machine's apt where to find Debian, and has mmdebstrap fetch packages from there.
const DEBIAN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/debian");

/// A directory that `build` creates if there is none for this recipe yet. `build` gets the path to
/// create, and a file that it must pass on to the programs it starts: the lock is held as long as
/// they run, even if this process is killed before.
pub(crate) fn cached(
    name: &str,
    recipe: &str,
    build: impl FnOnce(&Path, &File) -> Result<()>,
) -> Result<PathBuf> {
    let hash = blake3::hash(recipe.as_bytes()).to_hex();
    let done = Path::new(CACHE).join(format!("{name}-{}", &hash[..16]));
    if done.exists() {
        return Ok(done);
    }
    fs::create_dir_all(CACHE).with_context(|| format!("cannot create {CACHE}"))?;
    let lock = File::create(Path::new(CACHE).join("lock"))?;
    lock.lock()?;
    // Another process may have built it while this one waited.
    if !done.exists() {
        let building = done.with_extension("building");
        if building.exists() {
            fs::remove_dir_all(&building)
                .with_context(|| format!("cannot remove {}", building.display()))?;
        }
        build(&building, &lock)?;
        fs::rename(&building, &done)?;
    }
    Ok(done)
}

/// Makes a directory of packages of a suite with mmdebstrap, and `log` beside it. Where the packages
/// come from does not matter to what they are: the machine's apt knows a source.
pub(crate) fn debian(
    suite: &str,
    dir: &Path,
    lock: &File,
    options: &[&str],
    packages: &[&str],
    log: &Path,
) -> Result<()> {
    let output = File::create(log)?;
    let mut mmdebstrap = Command::new(DEBIAN);
    mmdebstrap
        .arg(suite)
        .arg(dir)
        .args(options)
        // A snapshot of the archive, whose index may have expired, is as good as the archive.
        .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
        .arg(format!("--include={}", packages.join(",")))
        .stdin(lock.try_clone()?)
        .stdout(output.try_clone()?)
        .stderr(output);
    // In its own mount namespace: what it mounts goes away with it, even if it is killed.
    let private = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?;
        Ok(())
    };
    // SAFETY: it makes only system calls and allocates nothing.
    unsafe { mmdebstrap.pre_exec(private) };
    let status = mmdebstrap
        .status()
        .with_context(|| format!("cannot start {DEBIAN}"))?;
    if !status.success() {
        bail!(
            "mmdebstrap failed ({status}; scripts/lab installs it); see {}",
            log.display()
        );
    }
    Ok(())
}
