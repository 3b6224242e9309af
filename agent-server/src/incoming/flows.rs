//! The connections of a container on its way to this host.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::ensure;
use common::container::ContainerFacts;
use common::net::flows::apply::{self, Arriving, Here};
use common::net::flows::decide::{self, MovedFlow};
use common::net::flows::neighbours::Parting;
use common::net::kernel::routes::Routes;
use common::net::kernel::sysctl;
use common::net::mark::Index;
use common::protocol::message::FLOWS_PER_BATCH;
use tokio::task::spawn_blocking;

use crate::scratch::{self, UndoList};

/// The most flows of one container: as many as the tracker has room for by default on large hosts
/// (the kernel's Documentation/networking/nf_conntrack-sysctl.rst).
const MOST_FLOWS: usize = 262_144;

/// Flows that are installed here.
#[derive(Default)]
pub(super) struct Flows {
    /// Those that already pass through this host and wait to be redirected.
    arriving: Vec<Arriving>,
    /// Batches of flows so far.
    batches: u32,
    /// Flows so far.
    count: usize,
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
        check(&flows, self.count, &container.addresses())?;
        self.count += flows.len();
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

/// Refuses flows that are not the container's, with these addresses, and more than it may have; `before` is
/// how many came earlier.
fn check(flows: &[MovedFlow], before: usize, addresses: &[IpAddr]) -> anyhow::Result<()> {
    ensure!(
        flows.len() <= FLOWS_PER_BATCH && before + flows.len() <= MOST_FLOWS,
        "the source sends too many connections: {} after {before}",
        flows.len()
    );
    match flows.iter().find(|flow| !flow.can_be_of(addresses)) {
        Some(flow) => anyhow::bail!(
            "the source sends a connection that the container cannot have: {}",
            flow.original
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use common::net::flows::decide::untracked;

    use super::*;

    fn flow(container: &str) -> MovedFlow {
        let own =
            conntrack::Tuple::tcp(container.parse().unwrap(), "192.0.2.9:443".parse().unwrap());
        untracked(own).0
    }

    #[test]
    fn only_so_many_flows_of_the_container_are_taken() {
        let own = ["10.88.0.5".parse().unwrap()];
        let flows = vec![flow("10.88.0.5:80"); FLOWS_PER_BATCH];
        check(&flows, 0, &own).unwrap();
        check(&flows, MOST_FLOWS - FLOWS_PER_BATCH, &own).unwrap();
        assert!(check(&flows, MOST_FLOWS - 1, &own).is_err());
        let more = vec![flow("10.88.0.5:80"); FLOWS_PER_BATCH + 1];
        assert!(check(&more, 0, &own).is_err());
        let error = check(&[flow("10.88.0.6:80")], 0, &own).unwrap_err();
        assert!(error.to_string().contains("10.88.0.6"), "{error}");
    }
}
