//! A checkpoint archive without memory.
//!
//! The destination wants Podman to prepare everything (record, storage, network namespace,
//! addresses, conmon) before the container is frozen. Podman only does that from a checkpoint
//! archive, and only Podman knows how to write its own configuration into one. So Podman is asked
//! for an ordinary checkpoint of the running container, with an OCI runtime in place of its own
//! that answers `checkpoint` by writing an empty inventory instead of calling CRIU, and passes
//! every other verb on. The container does not notice; the archive holds `config.dump`,
//! `spec.dump` and `network.status` and restores to whatever images are put in its place.
//!
//! Podman adds the container's log as well. If the container writes to it meanwhile, Podman's archive
//! ends there and Podman calls that a success. The log travels later, whole, so the archive is
//! written once more without it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use tar::{Archive, Builder, EntryType, Header};

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

    let whole = scratch.join("skeleton-of-podman.tar");
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
            .arg(format!("--export={}", whole.display()))
            .arg(id)
            .env("CONTAINERS_CONF_OVERRIDE", &overrides)
            .env(REAL_RUNTIME, real_runtime),
    )
    .await?;
    tighten(&whole, archive)
        .and_then(|()| std::fs::remove_file(&whole))
        .map_err(|error| CommandError::Output {
            program: "podman container checkpoint".into(),
            message: error.to_string(),
        })
}

/// What Podman's restore needs. They come before the log.
const NEEDED: [&str; 3] = ["config.dump", "spec.dump", "network.status"];

/// Copies of Podman's archive `whole`, which may break off in the log, what is small and to the point.
fn tighten(whole: &Path, archive: &Path) -> io::Result<()> {
    let mut builder = Builder::new(File::create(archive)?);
    let mut missing = NEEDED.to_vec();
    let mut from = Archive::new(File::open(whole)?);
    for entry in from.entries_with_seek()? {
        let Ok(entry) = entry else { break };
        let path = entry.path()?.into_owned();
        let is = |name: &&str| path == Path::new(*name);
        if !entry.header().entry_type().is_file() || path.starts_with(CHECKPOINT) {
            continue;
        }
        let needed = missing.iter().position(|name| is(&name));
        if let Some(position) = needed {
            missing.swap_remove(position);
        } else if !is(&SHM) {
            continue;
        }
        let mut header = entry.header().clone();
        builder.append_data(&mut header, path, entry)?;
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(io::Error::other(format!("an archive without {missing}")));
    }
    let mut header = Header::new_gnu();
    header.set_mode(0o700);
    header.set_entry_type(EntryType::Directory);
    header.set_size(0);
    builder.append_data(&mut header, CHECKPOINT, io::empty())?;
    header.set_mode(0o600);
    header.set_entry_type(EntryType::Regular);
    let inventory = Path::new(CHECKPOINT).join(INVENTORY);
    builder.append_data(&mut header, inventory, io::empty())?;
    builder.into_inner()?.sync_all()
}

const CHECKPOINT: &str = "checkpoint";

/// CRIU's, which names an image format version; Podman only looks whether it exists.
const INVENTORY: &str = "inventory.img";

/// What is in `/dev/shm`, for Podman to unpack. There is none with another container's.
const SHM: &str = "devshm-checkpoint.tar";

/// Acts as the OCI runtime. Returns the exit status, or does not return.
pub fn runtime(arguments: &[OsString]) -> i32 {
    if let Some(images) = checkpoint_directory(arguments) {
        return match std::fs::create_dir_all(&images)
            .and_then(|()| std::fs::write(images.join(INVENTORY), b""))
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

    /// An archive as Podman writes it: of these files, each with its own name as contents.
    fn archive(names: &[&str]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for name in names {
            let mut header = Header::new_gnu();
            header.set_size(name.len() as u64);
            header.set_mode(0o600);
            let contents = name.as_bytes();
            builder.append_data(&mut header, name, contents).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn an_archive_that_breaks_off_in_the_log_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, tight) = (dir.path().join("whole"), dir.path().join("tight"));
        let [config, spec, network] = NEEDED;
        let names = [SHM, config, spec, network, "ctr.log"];
        // Whole, and without the end of the log and what should follow.
        let bytes = archive(&names);
        for length in [bytes.len(), 4 * 1024 + 512 + 3] {
            std::fs::write(&whole, &bytes[..length]).unwrap();
            tighten(&whole, &tight).unwrap();
            let mut from = Archive::new(File::open(&tight).unwrap());
            let found: Vec<(PathBuf, String)> = from
                .entries()
                .unwrap()
                .map(|entry| {
                    let mut entry = entry.unwrap();
                    let mut text = String::new();
                    io::Read::read_to_string(&mut entry, &mut text).unwrap();
                    (entry.path().unwrap().into_owned(), text)
                })
                .collect();
            let mut expected: Vec<(PathBuf, String)> = names[..4]
                .iter()
                .map(|name| (name.into(), (*name).to_owned()))
                .collect();
            expected.push((CHECKPOINT.into(), String::new()));
            expected.push((Path::new(CHECKPOINT).join(INVENTORY), String::new()));
            assert_eq!(found, expected);
        }

        std::fs::write(&whole, archive(&[config, network])).unwrap();
        let error = tighten(&whole, &tight).unwrap_err().to_string();
        assert!(error.contains(spec), "{error}");
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
