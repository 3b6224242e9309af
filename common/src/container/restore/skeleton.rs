//! A checkpoint archive without memory.
//!
//! The destination wants Podman to prepare everything (record, storage, network namespace,
//! addresses, conmon) before the container is frozen. Podman only does that from a checkpoint
//! archive, and only Podman knows how to write its own configuration into one. So Podman is asked
//! for an ordinary checkpoint of the running container, but with a substitute for its OCI runtime
//! that answers `checkpoint` by writing an empty inventory instead of calling CRIU, and passes
//! every other verb on. The container does not notice. The archive holds `config.dump`, `spec.dump`
//! and `network.status`, and restores whatever images are put into it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use crate::command::{self, CommandError};
use crate::container::binds::Bind;
use crate::container::files::places::LOG_NAME;

/// Name under which the agent's executable is linked to act as the OCI runtime.
pub const RUNTIME_NAME: &str = "skeleton-runtime";

/// In the archive: where CRIU's images would be, and the one that Podman looks for.
const CHECKPOINT: &str = "checkpoint";
const INVENTORY: &str = "inventory.img";

/// What Podman cannot restore without.
const NEEDED: [&str; 2] = [CONFIG, SPEC];
const CONFIG: &str = "config.dump";
const SPEC: &str = "spec.dump";

/// In the archive: /dev/shm. Podman restores without it as well
/// (libpod/container_internal_common.go).
const SHM: &str = "devshm-checkpoint.tar";

/// Tells the substitute which runtime it replaces.
const REAL_RUNTIME: &str = "LIVE_MIGRATION_RUNTIME";

/// Writes the archive of container `id` to `archive`, using `scratch` for two small files. Those of its
/// `binds` that are elsewhere at the destination are so in the archive.
///
/// Leaves nothing behind but `archive` and the files in `scratch`.
pub async fn write(
    id: &str,
    runtime: &str,
    real_runtime: &Path,
    scratch: &Path,
    archive: &Path,
    binds: &[Bind],
) -> Result<(), CommandError> {
    let failed = |source| CommandError::Start {
        program: RUNTIME_NAME.into(),
        source,
    };
    let link = scratch.join(RUNTIME_NAME);
    std::os::unix::fs::symlink(crate::paths::executable().map_err(failed)?, &link)
        .map_err(failed)?;
    let overrides = scratch.join("skeleton.conf");
    std::fs::write(
        &overrides,
        format!(
            "[engine.runtimes]\n{runtime:?} = [{:?}]\n",
            link.display().to_string()
        ),
    )
    .map_err(failed)?;

    checkpoint(id, real_runtime, &overrides, archive).await?;
    trim(archive, binds).map_err(failed)
}

/// Takes the container's log and its /dev/shm out of the archive, which travel with the other files, and
/// makes sure that the rest is complete.
///
/// Podman adds the log while the container goes on writing to it. If the entry outgrows its header,
/// the archive ends there, and Podman does not notice. The entries after it are then missing; those
/// are the checkpoint's, which are ours and empty.
fn trim(archive: &Path, binds: &[Bind]) -> io::Result<()> {
    let trimmed = archive.with_extension("trimmed");
    let mut builder = tar::Builder::new(File::create(&trimmed)?);
    let mut kept = Vec::new();
    for entry in tar::Archive::new(File::open(archive)?).entries_with_seek()? {
        // Only the part from the end of the log on can be missing.
        let Ok(mut entry) = entry else { break };
        let path = entry.path()?.into_owned();
        let left_out = [LOG_NAME, SHM].iter().any(|name| path == Path::new(name));
        if left_out || path.starts_with(CHECKPOINT) {
            continue;
        }
        let mut header = entry.header().clone();
        if path == Path::new(SPEC) {
            let mut spec: serde_json::Value = serde_json::from_reader(&mut entry)?;
            follow_links(&mut spec);
            go_elsewhere(&mut spec, binds);
            let spec = serde_json::to_vec(&spec)?;
            header.set_size(spec.len() as u64);
            builder.append_data(&mut header, &path, &spec[..])?;
        } else {
            builder.append(&header, &mut entry)?;
        }
        kept.push(path);
    }
    for needed in NEEDED {
        if !kept.iter().any(|path| path == Path::new(needed)) {
            return Err(io::Error::other(format!("podman wrote no {needed}")));
        }
    }
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(0);
    builder.append_data(
        &mut header,
        Path::new(CHECKPOINT).join(INVENTORY),
        io::empty(),
    )?;
    builder.into_inner()?;
    std::fs::rename(&trimmed, archive)
}

/// Has the archive's container know its image by this id and not by the name that it was created with. Podman
/// looks for the image by that name, and would pull one that it does not find.
///
/// # Errors
/// Those of the file system, and if it is no archive.
pub fn know_image_by(archive: &Path, id: &str) -> io::Result<()> {
    let changed = archive.with_extension("changed");
    let mut builder = tar::Builder::new(File::create(&changed)?);
    for entry in tar::Archive::new(File::open(archive)?).entries()? {
        let mut entry = entry?;
        let mut header = entry.header().clone();
        if *entry.path()? != *Path::new(CONFIG) {
            builder.append(&header, &mut entry)?;
            continue;
        }
        let mut config: serde_json::Value = serde_json::from_reader(&mut entry)?;
        // `RootfsImageName` of ContainerRootFSConfig (libpod/container_config.go).
        if let Some(name) = config.get_mut("rootfsImageName") {
            *name = id.into();
        }
        let config = serde_json::to_vec(&config)?;
        header.set_size(config.len() as u64);
        builder.append_data(&mut header, CONFIG, &config[..])?;
    }
    builder.into_inner()?;
    std::fs::rename(&changed, archive)
}

/// Replaces a symbolic link as the source of a bind mount by its target. The runtime resolves it when
/// it starts a container, but CRIU binds the link itself when it restores one, and then fails
/// (`__do_bind_mount_v2` in criu/mount-v2.c). Debian's Podman knows the program of `--init` by a link.
fn follow_links(spec: &mut serde_json::Value) {
    let mounts = spec.get_mut("mounts").and_then(|m| m.as_array_mut());
    for mount in mounts.into_iter().flatten() {
        let is_bind = mount.get("type").is_some_and(|kind| kind == "bind");
        if is_bind
            && let Some(source) = mount.get_mut("source")
            && let Some(path) = source.as_str().map(PathBuf::from)
            && path.is_symlink()
            && let Ok(target) = path.canonicalize()
        {
            *source = target.to_string_lossy().into();
        }
    }
}

/// Replaces the sources of those `binds` that have another path at the destination.
fn go_elsewhere(spec: &mut serde_json::Value, binds: &[Bind]) {
    let mounts = spec.get_mut("mounts").and_then(|m| m.as_array_mut());
    for mount in mounts.into_iter().flatten() {
        let bind = binds.iter().find(|bind| {
            mount["destination"] == bind.destination && mount["source"] == bind.source
        });
        if let Some(bind) = bind {
            mount["source"] = bind.there().to_string_lossy().into();
        }
    }
}

async fn checkpoint(
    id: &str,
    real_runtime: &Path,
    overrides: &Path,
    archive: &Path,
) -> Result<(), CommandError> {
    command::stdout(
        crate::container::podman::podman()
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
            .env("CONTAINERS_CONF_OVERRIDE", overrides)
            .env(REAL_RUNTIME, real_runtime),
    )
    .await
    .map(drop)
}

/// Acts as the OCI runtime. Returns the exit status, or does not return.
pub fn runtime(arguments: &[OsString]) -> i32 {
    if let Some(images) = checkpoint_directory(arguments) {
        // CRIU's inventory names an image format version; Podman only checks that the file exists.
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

    /// An archive as Podman writes it; `cut`: without what comes after the log's bytes.
    fn archive(dir: &Path, cut: bool) -> PathBuf {
        let path = dir.join("a.tar");
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, bytes).unwrap();
        };
        add("config.dump", b"{}");
        add("spec.dump", b"[]");
        add("network.status", b"net");
        add(LOG_NAME, &[b'x'; 700]);
        if !cut {
            add("checkpoint/inventory.img", b"");
        }
        let mut bytes = builder.into_inner().unwrap();
        if cut {
            let log = bytes.iter().rposition(|b| *b == b'x').unwrap();
            bytes.truncate(log + 1);
        }
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn an_archive_that_the_log_has_cut_off_is_whole_again() {
        for cut in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = archive(dir.path(), cut);
            trim(&path, &[]).unwrap();
            let mut found = Vec::new();
            for entry in tar::Archive::new(File::open(&path).unwrap())
                .entries()
                .unwrap()
            {
                let mut entry = entry.unwrap();
                let mut text = String::new();
                io::Read::read_to_string(&mut entry, &mut text).unwrap();
                found.push((entry.path().unwrap().display().to_string(), text));
            }
            let expected = [
                ("config.dump", "{}"),
                ("spec.dump", "[]"),
                ("network.status", "net"),
                ("checkpoint/inventory.img", ""),
            ];
            let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
            assert_eq!(found, expected, "cut: {cut}");
        }
    }

    #[test]
    fn a_link_is_not_bound() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().canonicalize().unwrap();
        std::fs::write(directory.join("program"), b"").unwrap();
        std::os::unix::fs::symlink("program", directory.join("link")).unwrap();
        let spec = |source: &str| {
            let source = directory.join(source);
            serde_json::json!({"mounts": [
                {"type": "proc", "source": "proc"},
                {"type": "bind", "source": source, "destination": "/x"},
                {"type": "bind", "source": directory.join("gone"), "destination": "/y"},
            ]})
        };
        let mut found = spec("link");
        follow_links(&mut found);
        assert_eq!(found, spec("program"));
    }

    #[test]
    fn an_image_may_be_known_by_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        let files: [(&str, &str); 2] = [
            (CONFIG, r#"{"id":"7","rootfsImageName":"a@sha256:b"}"#),
            (SPEC, "[]"),
        ];
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            builder
                .append_data(&mut header, name, text.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap();
        know_image_by(&path, "c0ffee").unwrap();
        let mut found = Vec::new();
        for entry in tar::Archive::new(File::open(&path).unwrap())
            .entries()
            .unwrap()
        {
            found.push(io::read_to_string(entry.unwrap()).unwrap());
        }
        assert_eq!(found, [r#"{"id":"7","rootfsImageName":"c0ffee"}"#, "[]"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bind_mount_may_be_elsewhere_at_the_destination() {
        use crate::container::binds::Wish;
        let bind = |destination: &str, wish| Bind {
            source: "/srv/a".into(),
            destination: destination.into(),
            wish,
            ..Bind::default()
        };
        let elsewhere = Wish::At {
            path: "/srv/b".into(),
        };
        let binds = [bind("/x", elsewhere), bind("/y", Wish::Keep)];
        let spec = |x: &str| {
            serde_json::json!({"mounts": [
                {"type": "bind", "source": x, "destination": "/x"},
                {"type": "bind", "source": "/srv/a", "destination": "/y"},
                {"type": "tmpfs", "destination": "/z"},
            ]})
        };
        let mut found = spec("/srv/a");
        go_elsewhere(&mut found, &binds);
        assert_eq!(found, spec("/srv/b"));
    }

    #[test]
    fn an_archive_without_the_configuration_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        std::fs::write(&path, tar::Builder::new(Vec::new()).into_inner().unwrap()).unwrap();
        assert!(trim(&path, &[]).is_err());
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
