//! Where Podman keeps things on this host.

use serde::Deserialize;

use super::json;
use crate::command::CommandError;

/// Where Podman keeps things on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Images and containers.
    pub graph_root: String,
    /// What does not outlive the host's next start.
    pub run_root: String,
    /// Volumes.
    pub volumes: String,
    /// The conmon that it uses.
    pub conmon: String,
}

#[derive(Deserialize)]
struct Info {
    host: InfoHost,
    store: InfoStore,
}

#[derive(Deserialize)]
struct InfoHost {
    conmon: InfoConmon,
}

#[derive(Deserialize)]
struct InfoConmon {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InfoStore {
    graph_root: String,
    run_root: String,
    volume_path: String,
}

/// Where Podman keeps things.
pub async fn places() -> Result<Places, CommandError> {
    let info: Info = json(&["info", "--format", "json"]).await?;
    Ok(Places {
        graph_root: info.store.graph_root,
        run_root: info.store.run_root,
        volumes: info.store.volume_path,
        conmon: info.host.conmon.path,
    })
}
