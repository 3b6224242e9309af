//! What a migration writes to its work directory before each step, so that whoever finds the
//! directory after a crash can undo the step.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use common::container::binds::Made;
use common::container::podman;
use common::container::service::{self, ServiceFacts};
use common::durable;
use common::net::flows::apply::Installed;
use common::systemd;
use common::undo::Undo;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

/// File in the work directory that lists what was created, for [`crate::recovery`].
const CREATED: &str = "created.json";

/// File in the work directory with the container's configuration, as the source has sent it.
pub(crate) const SKELETON: &str = "skeleton.tar";

/// Prefix of the files that say how to undo flows, for [`crate::recovery`].
const FLOWS: &str = "flows-";

/// Something that a migration created besides the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Created {
    /// An image, by id.
    Image(String),
    /// A name of an image, by id and name.
    Tag(String, String),
    /// A volume, by name.
    Volume(String),
    /// A place for what is sent of a bind mount.
    Bind(Made),
    /// A file of a systemd unit.
    UnitFile(PathBuf),
    /// The start of a service, which is prepared.
    Service(Box<ServiceFacts>),
    /// A container whose only purpose is that Podman loads an AppArmor profile, by name.
    Scratch(String),
}

impl Created {
    /// Removes it, if it is there.
    pub(crate) async fn remove(&self) -> anyhow::Result<()> {
        match self {
            Created::Image(id) => podman::objects::remove_image(id).await?,
            Created::Tag(id, name) => podman::objects::untag_image(id, name).await?,
            Created::Volume(name) => podman::objects::remove_volume(name).await?,
            Created::Bind(made) => {
                let made = made.clone();
                let path = made.path().display().to_string();
                spawn_blocking(move || made.remove()).await?.context(path)?;
            }
            Created::UnitFile(path) => {
                service::remove_file(path)?;
                systemd::reload().await?;
            }
            Created::Service(service) => service::undo_arrival(service).await?,
            Created::Scratch(name) => podman::objects::remove_container(name).await?,
        }
        Ok(())
    }
}

/// What a migration has created so far, and how to undo it: in memory and in its work directory.
pub(crate) struct UndoList {
    work: PathBuf,
    created: Vec<Created>,
    /// Only in memory. Whoever adds to it makes sure that [`crate::recovery`] can do the same.
    pub(crate) actions: Undo,
}

impl UndoList {
    /// For the migration with this work directory, which is created if need be.
    pub(crate) fn new(work: PathBuf) -> anyhow::Result<Self> {
        durable::create_private_dir(&work)
            .with_context(|| format!("cannot create {}", work.display()))?;
        Ok(UndoList {
            work,
            created: Vec::new(),
            actions: Undo::default(),
        })
    }

    /// The work directory.
    pub(crate) fn work(&self) -> &Path {
        &self.work
    }

    /// Registers how something is undone, in memory and on disk, before it is created.
    pub(crate) fn will_create(&mut self, created: Created) -> anyhow::Result<()> {
        self.created.push(created.clone());
        let list = serde_json::to_vec(&self.created)?;
        durable::replace(&self.work.join(CREATED), 0o644, &list)
            .context("cannot write down what is created")?;
        self.actions.register(
            "image or volume",
            move || async move { created.remove().await },
        );
        Ok(())
    }
}

/// Makes a place for what is sent of a bind mount, in place of nothing, an empty directory, or, with
/// `overwrite`, whatever is there. Both steps are written down before they are taken.
pub(crate) async fn make_place(
    undo: &mut UndoList,
    mut made: Made,
    overwrite: bool,
) -> anyhow::Result<()> {
    undo.will_create(Created::Bind(made.clone()))?;
    let path = made.path().display().to_string();
    let made = spawn_blocking(move || made.draft().map(|()| made)).await?;
    let made = made.with_context(|| path.clone())?;
    // Again, now that it is known what was made.
    undo.will_create(Created::Bind(made.clone()))?;
    spawn_blocking(move || made.take_place(overwrite))
        .await?
        .context(path)
}

/// Removes what had to make place, once what a migration with this work directory has brought is on disk.
pub(crate) fn forget_old(work: &Path) -> anyhow::Result<()> {
    for created in created(work)? {
        if let Created::Bind(made) = created {
            let path = made.path().display().to_string();
            made.forget_old().context(path)?;
        }
    }
    Ok(())
}

/// Writes down how a batch of flows is undone. Not synced to disk: only the next start of the server
/// needs it, since a reboot undoes flows anyway, and the outage need not wait for the disk.
pub(crate) fn will_install(work: &Path, batch: u32, flows: &Installed) -> anyhow::Result<()> {
    let file = work.join(format!("{FLOWS}{batch}.json"));
    std::fs::write(&file, serde_json::to_vec(flows)?)
        .context("cannot write down how the flows are undone")
}

/// What a migration with this work directory had created, newest first.
pub(crate) fn created(work: &Path) -> anyhow::Result<Vec<Created>> {
    let path = work.join(CREATED);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let mut list: Vec<Created> =
        serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
    list.reverse();
    Ok(list)
}

/// How to undo the flows that the migration with this work directory had installed. A file that is
/// incomplete is about flows that were not installed yet.
pub(crate) fn installed(work: &Path) -> Vec<Installed> {
    let entries = std::fs::read_dir(work).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(FLOWS))
        .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_created_is_found_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        assert!(created(&work).unwrap().is_empty());
        let mut undo = UndoList::new(work.clone()).unwrap();
        for name in ["one", "two"] {
            undo.will_create(Created::Volume(name.to_owned())).unwrap();
        }
        let found = created(&work).unwrap();
        assert!(
            matches!(&found[..], [Created::Volume(b), Created::Volume(a)] if a == "one" && b == "two")
        );
    }

    #[test]
    fn a_list_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CREATED), "[{\"volume\": ").unwrap();
        let error = created(dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains(CREATED), "{error:#}");
    }
}
