//! Brings a container to the gate.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use common::container::files::payload::Places;
use common::container::restore::gate::{self, Owner, Staged};
use common::container::service::{self, ServiceFacts};
use common::container::{ContainerFacts, apparmor, podman, spec};
use common::net::flows::port_forwards;
use common::net::foreign_firewalls::{self, Part};
use common::net::state::Dirs;
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
    /// Makes what Podman needs for the container, and brings it to the gate.
    pub(super) async fn run(&mut self) -> anyhow::Result<Staged> {
        let reference = &self.container.image_name;
        if !podman::exists("image", reference).await? {
            let (id, name) = (self.container.image_id.clone(), reference.clone());
            self.undo
                .will_create(Created::Tag(id.clone(), name.clone()))?;
            podman::objects::tag_image(&id, &name).await?;
        }
        self.load_profiles().await?;
        for volume in self.container.volumes.clone() {
            self.undo
                .will_create(Created::Volume(volume.name.clone()))?;
            podman::objects::create_volume(&volume).await?;
        }
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
        let staged = self.bring_to_gate().await?;
        // Only now are netavark's rules in place.
        let look = move || foreign_firewalls::obstacles(Part::Staged(&bridges), &addresses, false);
        let obstacles = spawn_blocking(look).await.unwrap_or_default();
        let certain = obstacles.iter().filter(|obstacle| obstacle.certain);
        let why: Vec<_> = certain
            .map(|o| format!("{}: {}", o.found, o.advice))
            .collect();
        if !why.is_empty() {
            staged.cancel().await;
            anyhow::bail!(why.join("\n"));
        }
        Ok(staged)
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
    async fn bring_to_gate(&mut self) -> anyhow::Result<Staged> {
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

/// Where the pieces of a container at the gate belong.
pub(super) fn places(container: &ContainerFacts, staged: &Staged) -> anyhow::Result<Places> {
    let volumes: BTreeMap<String, PathBuf> = container
        .volumes
        .iter()
        .map(|volume| {
            let directory = staged
                .layout
                .binds
                .get(&volume.destination)
                .with_context(|| format!("{} is not mounted", volume.destination))?;
            Ok((volume.destination.clone(), directory.clone()))
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(Places {
        checkpoint: staged.checkpoint.clone(),
        rootfs: staged.layout.rootfs.clone(),
        shm: staged.layout.shm.clone(),
        volumes,
        log: staged.bundle.join(spec::LOG_NAME),
    })
}
