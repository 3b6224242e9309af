//! Brings a container to the gate.

use std::net::IpAddr;

use std::path::{Path, PathBuf};

use anyhow::Context;
use common::command::CommandError;
use common::container::files::places::Places;
use common::container::podman::info::Info;
use common::container::restore::gate::{self, Owner, Staged};
use common::container::restore::skeleton;
use common::container::service::{self, ServiceFacts};
use common::container::spec::Spec;
use common::container::{ContainerFacts, apparmor, podman};
use common::net::flows::port_forwards;
use common::net::foreign_firewalls::{self, Part};
use common::net::state::Dirs;
use common::preflight::{self, Side, Verdict};
use common::protocol::MigrationId;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::scratch::{Created, SKELETON, UndoList};
use crate::survey;

/// A container that is about to be brought to the gate.
pub(super) struct Stage<'a> {
    pub(super) container: &'a ContainerFacts,
    pub(super) migration: &'a MigrationId,
    pub(super) undo: &'a mut UndoList,
    pub(super) cancel: &'a CancellationToken,
}

impl Stage<'_> {
    /// Makes what Podman needs for the container, and brings it to the gate. Also returns where its
    /// pieces belong.
    pub(super) async fn run(&mut self) -> anyhow::Result<(Staged, Places)> {
        let reference = &self.container.image_name;
        let named = podman::exists("image", reference);
        if unless_cancelled(self.cancel, named).await? {
            // As it is.
        } else if self.container.is_image_pinned() {
            let (archive, id) = (
                self.undo.work().join(SKELETON),
                self.container.image_id.clone(),
            );
            spawn_blocking(move || skeleton::know_image_by(&archive, &id)).await??;
        } else {
            let (id, name) = (self.container.image_id.clone(), reference.clone());
            self.undo
                .will_create(Created::Tag(id.clone(), name.clone()))?;
            let tagged = podman::objects::tag_image(&id, &name);
            unless_cancelled(self.cancel, tagged).await?;
        }
        self.load_profiles().await?;
        let id = self.container.id.clone();
        let removed = id.clone();
        self.undo.actions.register("container", move || async move {
            Ok(podman::objects::remove_container(&removed).await?)
        });
        // Podman binds the ports again that it published here before the container moved away.
        let (lent, returned) = (id.clone(), id.clone());
        self.undo.actions.register("forward", move || async move {
            let activate = move || port_forwards::activate(&Dirs::default(), &returned);
            Ok(spawn_blocking(activate).await??)
        });
        spawn_blocking(move || port_forwards::lend(&Dirs::default(), &lent)).await??;
        let (bridges, addresses) = (
            survey::bridges(self.container).await,
            self.container.addresses(),
        );
        // Not later: Podman's restore holds the container's lock at the gate, and `podman info` waits for
        // the locks of all containers.
        let info = unless_cancelled(self.cancel, podman::info::info()).await?;
        let staged = self.bring_to_gate(&info.conmon).await?;
        if let Err(error) = is_as_agreed(self.container, &staged, &info) {
            staged.cancel().await;
            return Err(error);
        }
        match find_pieces(self.container, &staged, bridges, addresses).await {
            Ok(places) => Ok((staged, places)),
            Err(error) => {
                staged.cancel().await;
                Err(error)
            }
        }
    }

    /// Has Podman load those of its own AppArmor profiles that confine the container: when it
    /// restores a container, it does not load them.
    async fn load_profiles(&mut self) -> anyhow::Result<()> {
        let loaded = apparmor::loaded().context("cannot list the profiles of AppArmor")?;
        for profile in apparmor::to_load(&self.container.labels, &loaded) {
            let scratch = format!("live-migration-{}", self.migration);
            self.undo.will_create(Created::Scratch(scratch.clone()))?;
            common::container::restore::profile::load(&profile, &self.container.image_id, &scratch)
                .await?;
        }
        Ok(())
    }

    /// Not interrupted at once when the migration is cancelled: a Podman that is killed on the way to the
    /// gate leaves a network namespace and mounts behind. It takes about a second, and closing the
    /// gate afterwards leaves nothing behind.
    async fn bring_to_gate(&mut self, conmon: &str) -> anyhow::Result<Staged> {
        let owner = match self.container.service.clone() {
            Some(service) => {
                self.prepare_service(&service).await?;
                Owner::Service(service.name)
            }
            None => Owner::Scope(format!("live-migration-{}", self.migration)),
        };
        let scratch = self.undo.work().join("gate");
        std::fs::create_dir(&scratch)?;
        Ok(gate::stage(
            &owner,
            &self.undo.work().join(SKELETON),
            &self.container.runtime,
            conmon,
            &scratch,
            self.cancel,
        )
        .await?)
    }

    /// Installs the unit's files that are missing here. systemd reads them when the start of the
    /// service is prepared.
    async fn prepare_service(&mut self, service: &ServiceFacts) -> anyhow::Result<()> {
        for file in service.files.iter().filter(|file| !file.path.exists()) {
            anyhow::ensure!(
                file.may_be_written(),
                "{} must not be installed here",
                file.path.display()
            );
            self.undo
                .will_create(Created::UnitFile(file.path.clone()))?;
            file.install()?;
        }
        self.undo
            .will_create(Created::Service(Box::new(service.clone())))?;
        Ok(service::prepare_arrival(service).await?)
    }
}

/// Ends a call of Podman's, which may hang, if the migration is cancelled. What it makes is on the undo list.
pub(super) async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    call: impl Future<Output = Result<T, CommandError>>,
) -> anyhow::Result<T> {
    let ended = cancel.run_until_cancelled(call).await;
    Ok(ended.context("cancelled")??)
}

/// Compares what Podman is about to restore with what the source has said of it: the id, what it may
/// do, and what it has of this host's files.
fn is_as_agreed(container: &ContainerFacts, staged: &Staged, info: &Info) -> anyhow::Result<()> {
    let id = &container.id;
    let own = |root: &str| Path::new(root).join("overlay-containers").join(id);
    let (kept, run) = (own(&info.graph_root), own(&info.run_root));
    anyhow::ensure!(
        staged.bundle.starts_with(&kept),
        "the archive is not of the container {id}"
    );
    let spec = Spec::read(&staged.bundle)?;
    if let Some(beyond) = spec.privileges().beyond(&container.privileges) {
        anyhow::bail!("the archive's container has more than its source has told: {beyond}");
    }
    // The merged root, and the volumes that were made for it.
    let root = Path::new(&info.graph_root).join("overlay");
    let volumes = container.volumes.iter();
    let volumes: Vec<PathBuf> = volumes
        .map(|volume| Path::new(&info.volumes).join(&volume.name))
        .collect();
    let roots = [kept.as_path(), &run];
    let roots: Vec<&Path> = roots
        .into_iter()
        .chain(volumes.iter().map(PathBuf::as_path))
        .collect();
    let init = container.init.as_ref().map(|init| init.path.as_path());
    let files: Vec<&Path> = init.into_iter().collect();
    match spec.foreign_mount(&root, &roots, &files, &container.binds) {
        Some(foreign) => anyhow::bail!("the archive's container mounts {foreign}"),
        None => Ok(()),
    }
}

/// Finds the pieces of a container at the gate. Fails if a firewall keeps its packets away.
async fn find_pieces(
    container: &ContainerFacts,
    staged: &Staged,
    bridges: Vec<String>,
    addresses: Vec<IpAddr>,
) -> anyhow::Result<Places> {
    // Netavark's rules are there only now.
    let look = move || foreign_firewalls::obstacles(Part::Staged(&bridges), &addresses, false);
    let obstacles = spawn_blocking(look).await.unwrap_or_default();
    let checks = preflight::firewalls(Side::Destination, container, &obstacles);
    let failed = checks
        .into_iter()
        .filter(|check| check.verdict == Verdict::Failed);
    let why: Vec<String> = failed.map(|check| check.detail).collect();
    anyhow::ensure!(why.is_empty(), why.join("\n"));
    let checkpoint = staged.checkpoint.clone();
    let (volumes, binds) = (&container.volumes, &container.binds);
    Ok(Places::read(&staged.bundle, checkpoint, volumes, binds)?)
}
