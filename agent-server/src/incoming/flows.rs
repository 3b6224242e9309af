//! The connections of a container on its way to this host.

use std::path::PathBuf;

use common::container::ContainerFacts;
use common::net::flows::apply::{self, Arriving, Here};
use common::net::flows::decide::{self, MovedFlow};
use common::net::flows::neighbours::Parting;
use common::net::kernel::routes::Routes;
use common::net::kernel::sysctl;
use common::net::mark::Index;
use tokio::task::spawn_blocking;

use crate::scratch::{self, UndoList};

/// Flows that are installed here.
#[derive(Default)]
pub(super) struct Flows {
    /// Those that already pass through this host and wait to be redirected.
    arriving: Vec<Arriving>,
    /// Batches of flows so far.
    batches: u32,
}

impl Flows {
    /// Registers, here and on disk, how to undo flows that come to `container` through tunnel `index`,
    /// then installs them. Returns how many wait to be redirected.
    pub(super) async fn install(
        &mut self,
        flows: Vec<MovedFlow>,
        index: Index,
        netns: Option<PathBuf>,
        container: &ContainerFacts,
        undo: &mut UndoList,
    ) -> anyhow::Result<usize> {
        self.batches += 1;
        let subnets = container.subnets();
        let (work, batch) = (undo.work().to_owned(), self.batches);
        let (mut arriving, parting) = spawn_blocking(move || {
            let here = Here {
                addresses: Routes::open()?.own_addresses()?,
                untracked: match sysctl::bridges_are_tracked() {
                    true => Vec::new(),
                    false => subnets.clone(),
                },
            };
            let arriving = apply::arriving(&flows, index, &here)?;
            scratch::will_install(&work, batch, arriving.undo())?;
            let peers = decide::peers_in(&flows, &subnets);
            let parting = match netns {
                Some(netns) => Parting::of_arrival(&netns, &peers)?,
                None => Parting::default(),
            };
            anyhow::Ok((arriving, parting))
        })
        .await??;
        let installed = arriving.undo().clone();
        undo.actions.register("flows", move || async move {
            Ok(spawn_blocking(move || installed.remove()).await??)
        });
        let arriving = spawn_blocking(move || {
            arriving.install()?;
            // Safe now: no packet of the container can be under way yet.
            parting.make()?;
            anyhow::Ok(arriving)
        })
        .await??;
        self.arriving.push(arriving);
        Ok(self.arriving.iter().map(Arriving::waiting).sum())
    }

    /// Redirects the flows that already pass through this host to the container here.
    pub(super) async fn redirect(&mut self) -> anyhow::Result<()> {
        let arriving = std::mem::take(&mut self.arriving);
        spawn_blocking(move || arriving.iter().try_for_each(Arriving::redirect)).await??;
        Ok(())
    }
}
