//! Podman's command line, as one typed call per thing asked of it.
//!
//! Podman stays the owner of its database, storage and networks: nothing here edits its files.

pub mod image;
pub mod info;
pub mod inspect;
pub mod list;
pub mod objects;

use serde::de::DeserializeOwned;
use tokio::process::Command;

use crate::command::{self, CommandError};

/// A `podman` command line to be completed.
pub fn podman() -> Command {
    command::new("podman")
}

/// Whether a `container`, `image`, `network` or `volume` of this name exists.
pub async fn exists(kind: &str, name: &str) -> Result<bool, CommandError> {
    let mut command = podman();
    command.args([kind, "exists", name]);
    let output = command::output_in_time(&mut command).await?;
    match output.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err(command::failed(&command, &output)),
    }
}

/// `podman KIND inspect` of all `names` at once. One that has gone since it was listed is left out:
/// Podman complains of it and prints the others.
async fn inspect_all<T: DeserializeOwned>(
    kind: &str,
    names: &[&str],
) -> Result<Vec<T>, CommandError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = podman();
    command.args([kind, "inspect"]).args(names);
    let output = command::output_in_time(&mut command).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).map_err(|error| match output.status.success() {
        true => CommandError::Output {
            program: "podman".into(),
            message: format!("{kind} inspect: {error}"),
        },
        false => command::failed(&command, &output),
    })
}

async fn json<T: DeserializeOwned>(arguments: &[&str]) -> Result<T, CommandError> {
    let text = command::stdout(podman().args(arguments)).await?;
    serde_json::from_str(&text).map_err(|error| CommandError::Output {
        program: "podman".into(),
        message: format!("{}: {error}", arguments.join(" ")),
    })
}

fn first<T>(items: Vec<T>, what: &str) -> Result<T, CommandError> {
    items
        .into_iter()
        .next()
        .ok_or_else(|| CommandError::Output {
            program: "podman".into(),
            message: format!("an empty list instead of a {what}"),
        })
}
