//! What Podman says of itself on this host.

use serde::Deserialize;

use super::json;
use crate::command::CommandError;

/// What Podman says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its version.
    pub version: String,
    /// Where it keeps images and containers.
    pub graph_root: String,
    /// Where it keeps what is gone after the host's next boot.
    pub run_root: String,
    /// Where it keeps volumes.
    pub volumes: String,
    /// The conmon that it uses.
    pub conmon: String,
}

#[derive(Deserialize)]
struct Printed {
    host: Host,
    store: Store,
    version: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct Host {
    conmon: Conmon,
}

#[derive(Deserialize)]
struct Conmon {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Store {
    graph_root: String,
    run_root: String,
    volume_path: String,
}

/// Asks Podman. This takes longer than other questions, because Podman looks up the version and the
/// package of each program that it uses.
pub async fn info() -> Result<Info, CommandError> {
    let info: Printed = json(&["info", "--format", "json"]).await?;
    Ok(Info {
        version: info.version.version,
        graph_root: info.store.graph_root,
        run_root: info.store.run_root,
        volumes: info.store.volume_path,
        conmon: info.host.conmon.path,
    })
}
