//! A checkpoint archive without memory.
//!
//! The destination wants Podman to prepare everything (record, storage, network namespace,
//! addresses, conmon) before the container is frozen. Podman only does that from a checkpoint
//! archive, and only Podman knows how to write its own configuration into one. So Podman is asked
//! for an ordinary checkpoint of the running container, with an OCI runtime in place of its own
//! that answers `checkpoint` by writing an empty inventory instead of calling CRIU, and passes
//! every other verb on. The container does not notice; the archive holds `config.dump`,
//! `spec.dump` and `network.status` and restores to whatever images are put in its place.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use super::command::{self, CommandError};

/// Name the agent's executable is linked to, to act as the OCI runtime.
pub const RUNTIME_NAME: &str = "skeleton-runtime";

/// Tells the stand-in which runtime it stands in for.
const REAL_RUNTIME: &str = "LIVE_MIGRATION_RUNTIME";

/// Writes the archive of container `id` to `archive`, using `scratch` for two small files.
///
/// Leaves nothing behind but `archive` and the files in `scratch`.
pub async fn write(
    id: &str,
    runtime: &str,
    real_runtime: &Path,
    scratch: &Path,
    archive: &Path,
) -> Result<(), CommandError> {
    let io = |source| CommandError::Start {
        program: RUNTIME_NAME.into(),
        source,
    };
    let stand_in = scratch.join(RUNTIME_NAME);
    std::os::unix::fs::symlink(crate::multicall::executable().map_err(io)?, &stand_in)
        .map_err(io)?;
    let overrides = scratch.join("skeleton.conf");
    std::fs::write(
        &overrides,
        format!(
            "[engine.runtimes]\n{runtime:?} = [{:?}]\n",
            stand_in.display().to_string()
        ),
    )
    .map_err(io)?;

    command::stdout(
        super::podman::podman()
            .args([
                "container",
                "checkpoint",
                "--leave-running",
                "--tcp-established",
                "--ignore-rootfs",
                "--ignore-volumes",
                "--compress",
                "none",
            ])
            .arg(format!("--export={}", archive.display()))
            .arg(id)
            .env("CONTAINERS_CONF_OVERRIDE", &overrides)
            .env(REAL_RUNTIME, real_runtime),
    )
    .await
    .map(drop)
}

/// Acts as the OCI runtime. Returns the exit status, or does not return.
pub fn runtime(arguments: &[OsString]) -> i32 {
    if let Some(images) = checkpoint_directory(arguments) {
        // CRIU's inventory names an image format version; Podman only looks whether it exists.
        return match std::fs::create_dir_all(&images)
            .and_then(|()| std::fs::write(images.join("inventory.img"), b""))
        {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{}: {error}", images.display());
                1
            }
        };
    }
    let Some(real) = std::env::var_os(REAL_RUNTIME) else {
        eprintln!("{RUNTIME_NAME}: {REAL_RUNTIME} is not set");
        return 1;
    };
    let error = std::process::Command::new(&real)
        .args(arguments)
        .env_remove("CONTAINERS_CONF_OVERRIDE")
        .exec();
    eprintln!("{}: {error}", Path::new(&real).display());
    1
}

/// The image directory if the arguments are those of a real `checkpoint`, not of its `--help`.
fn checkpoint_directory(arguments: &[OsString]) -> Option<PathBuf> {
    arguments.iter().find(|a| *a == "checkpoint")?;
    let position = arguments.iter().position(|a| *a == "--image-path")?;
    arguments.get(position + 1).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn only_a_real_checkpoint_is_answered_here() {
        assert_eq!(
            checkpoint_directory(&args("checkpoint --image-path /c --leave-running abc")),
            Some("/c".into())
        );
        assert_eq!(checkpoint_directory(&args("checkpoint --help")), None);
        assert_eq!(checkpoint_directory(&args("state abc")), None);
        assert_eq!(
            checkpoint_directory(&args("restore --image-path /c abc")),
            None
        );
    }
}
