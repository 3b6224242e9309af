//! What a migration writes down in its work directory before it does it, so that whoever finds the
//! directory after a crash can undo it.

use std::path::{Path, PathBuf};

use common::container::podman;
use common::container::service::{self, ServiceFacts};
use common::net::carry::Installed;
use common::systemd;
use serde::{Deserialize, Serialize};

/// File in the work directory that lists what was created, for [`crate::recovery`].
pub(crate) const CREATED: &str = "created.json";

/// How the names of files begin that say how flows are undone, for [`crate::recovery`].
pub(crate) const FLOWS: &str = "flows-";

/// Something of Podman's that a migration created besides the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Created {
    /// An image, by id.
    Image(String),
    /// A name of an image, by id and name.
    Tag(String, String),
    /// A volume, by name.
    Volume(String),
    /// A file of a unit.
    UnitFile(PathBuf),
    /// The start of a service.
    Service(Box<ServiceFacts>),
    /// A container that has Podman load a security profile, by name.
    Scratch(String),
}

impl Created {
    /// Removes it, if it is there.
    pub(crate) async fn remove(&self) -> anyhow::Result<()> {
        match self {
            Created::Image(id) => podman::remove_image(id).await?,
            Created::Tag(id, name) => podman::untag_image(id, name).await?,
            Created::Volume(name) => podman::remove_volume(name).await?,
            Created::UnitFile(path) => {
                service::remove_file(path)?;
                systemd::reload().await?;
            }
            Created::Service(service) => service::undo_arrival(service).await?,
            Created::Scratch(name) => podman::remove_container(name).await?,
        }
        Ok(())
    }
}

/// What a migration with this work directory had created, volumes first.
pub(crate) fn created(work: &Path) -> Vec<Created> {
    let mut list: Vec<Created> = std::fs::read(work.join(CREATED))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    list.reverse();
    list
}

/// How the flows are undone that the migration with this work directory had installed.
pub(crate) fn installed(work: &Path) -> Vec<Installed> {
    let entries = std::fs::read_dir(work).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(FLOWS))
        .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
        .collect()
}
