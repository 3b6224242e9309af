//! The container's image, carried over when the destination lacks it.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::command::CommandError;
use super::stragglers;

/// Streams `podman save` of the image into `sink`. Blocks; returns when Podman is done.
///
/// Saved by id, without names, so that loading moves no tag at the destination; and in the format
/// the image has, because converting it would give it another id.
pub fn save(image_id: &str, sink: &mut impl Write) -> Result<(), ImageError> {
    let format = if manifest_type(image_id)?.contains("oci") {
        "oci-archive"
    } else {
        "docker-archive"
    };
    let mut child = spawn(
        Command::new("podman")
            .args(["image", "save", "--quiet", "--format", format, image_id])
            .stdin(Stdio::null())
            .stdout(Stdio::piped()),
    )?;
    let mut stdout = child.0.stdout.take().expect("stdout is piped");
    io::copy(&mut stdout, sink).map_err(ImageError::Stream)?;
    drop(stdout);
    finish(child, "image save")
}

fn manifest_type(image_id: &str) -> Result<String, CommandError> {
    let output = Command::new("podman")
        .args([
            "image",
            "inspect",
            "--format",
            "{{.ManifestType}}",
            image_id,
        ])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| CommandError::Start {
            program: "podman".into(),
            source,
        })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Feeds `source` to `podman load`. Blocks; returns when Podman is done. It can be told by `work`,
/// the migration's scratch space, should it survive its caller.
pub fn load(source: &mut impl Read, work: &Path) -> Result<(), ImageError> {
    let mut child = spawn(
        Command::new("podman")
            .args(["image", "load", "--quiet"])
            .env(stragglers::WORK, work)
            .stdin(Stdio::piped())
            .stdout(Stdio::null()),
    )?;
    let mut stdin = child.0.stdin.take().expect("stdin is piped");
    let copied = io::copy(source, &mut stdin);
    drop(stdin);
    // Podman's own words say more than the broken pipe that its failure causes here.
    finish(child, "image load")?;
    copied.map(drop).map_err(ImageError::Stream)
}

/// The image could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Podman failed.
    #[error(transparent)]
    Podman(#[from] CommandError),
    /// The stream to or from the peer failed.
    #[error("the image's stream broke: {0}")]
    Stream(#[source] io::Error),
}

/// A child that does not outlive its owner.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut Command) -> Result<Owned, CommandError> {
    command
        .stderr(Stdio::piped())
        .spawn()
        .map(Owned)
        .map_err(|source| CommandError::Start {
            program: "podman".into(),
            source,
        })
}

fn finish(mut child: Owned, verb: &str) -> Result<(), ImageError> {
    let mut stderr = String::new();
    if let Some(mut pipe) = child.0.stderr.take() {
        let _ = pipe.read_to_string(&mut stderr);
    }
    let status = child.0.wait().map_err(ImageError::Stream)?;
    if status.success() {
        return Ok(());
    }
    Err(CommandError::Failed {
        program: "podman".into(),
        verb: verb.into(),
        message: stderr
            .lines()
            .next_back()
            .map_or_else(|| status.to_string(), str::to_owned),
    }
    .into())
}
