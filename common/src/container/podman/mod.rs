//! Podman's command line, as one typed call per thing asked of it.
//!
//! Podman stays the owner of its database, storage and networks: nothing here edits its files.

pub mod image;
pub mod info;
pub mod inspect;
pub mod list;
pub mod objects;
mod piped;
pub mod secrets;
mod shapes;

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

/// `podman KIND inspect` of all `names` at once. Those that do not exist are left out.
async fn inspect_all<T: DeserializeOwned>(
    kind: &str,
    names: &[&str],
) -> Result<Vec<T>, CommandError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    inspected(podman().args([kind, "inspect"]).args(names)).await
}

/// What a `podman inspect` prints. Podman fails if anything is missing, but prints the rest all the same.
async fn inspected<T: DeserializeOwned>(command: &mut Command) -> Result<Vec<T>, CommandError> {
    let output = command::output_in_time(command).await?;
    let found: serde_json::Result<Option<Vec<T>>> = serde_json::from_slice(&output.stdout);
    match found {
        Ok(found) => Ok(found.unwrap_or_default()),
        Err(_) if !output.status.success() => Err(command::failed(command, &output)),
        Err(error) => Err(unexpected(&format!("inspect: {error}"))),
    }
}

async fn json<T: DeserializeOwned>(arguments: &[&str]) -> Result<T, CommandError> {
    let text = command::stdout(podman().args(arguments)).await?;
    serde_json::from_str(&text)
        .map_err(|error| unexpected(&format!("{}: {error}", arguments.join(" "))))
}

fn unexpected(message: &str) -> CommandError {
    CommandError::Output {
        program: "podman".into(),
        message: message.to_owned(),
    }
}
