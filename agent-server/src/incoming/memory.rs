//! Memory that comes ahead of the checkpoint, and who gives it to the restored processes.

use std::path::PathBuf;

use anyhow::Context;
use common::bulk::Receiver;
use common::container::restore::gate::Staged;
use common::container::restore::pager::{self, Pager, Place};
use common::protocol::{RefusalCode, Refused, StreamDigest};
use memory::store::Store;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::destination::{Step, failed};
use crate::scratch::UndoList;

/// What has come of it.
#[derive(Default)]
pub(super) struct Memory {
    arriving: Option<JoinHandle<anyhow::Result<(StreamDigest, Store)>>>,
    arrived: Option<Store>,
    pager: Option<Pager>,
}

impl Memory {
    /// Makes room for the memory of container `id`.
    pub(super) async fn prepare(&mut self, id: &str, undo: &mut UndoList) -> anyhow::Result<Store> {
        anyhow::ensure!(self.arriving.is_none(), "its memory is arriving already");
        let place = Place::of(id);
        let discarded = place.clone();
        // After a crash, `pager::sweep` does it.
        undo.actions.register("memory", move || async move {
            Ok(spawn_blocking(move || discarded.discard()).await??)
        });
        spawn_blocking(move || place.prepare(pager::room_bytes()))
            .await?
            .context("cannot take memory ahead of the checkpoint")
    }

    /// If memory arrives, starts the pager of the container that was staged. It has nothing to do yet.
    pub(super) async fn start_pager(&mut self, id: &str, staged: &Staged) -> anyhow::Result<()> {
        if self.arriving.is_none() {
            return Ok(());
        }
        let place = Place::of(id);
        let (images, bundle) = (staged.checkpoint.clone(), staged.bundle.clone());
        let started = spawn_blocking(move || pager::start(&place, &images, &bundle)).await?;
        self.pager = Some(started.context("cannot start the container's pager")?);
        Ok(())
    }

    /// Takes in the stream that `accept` waits for.
    pub(super) fn receive(
        &mut self,
        mut store: Store,
        accept: impl FnOnce() -> std::io::Result<Receiver> + Send + 'static,
    ) {
        self.arriving = Some(spawn_blocking(move || {
            let mut receiver = accept()?;
            store.feed(&mut receiver)?;
            Ok((receiver.finish()?, store))
        }));
    }

    /// Waits for the end of the stream and compares it with what was sent.
    pub(super) async fn end(&mut self, digest: StreamDigest) -> Step<()> {
        let stream = self
            .arriving
            .take()
            .ok_or_else(|| Refused::new(RefusalCode::Protocol, "no memory is arriving"))?;
        let (received, store) = stream.await.map_err(failed)?.map_err(failed)?;
        super::link::compare(digest, received)?;
        self.arrived = Some(store);
        Ok(())
    }

    /// Proves that all memory which the images lack has come. If they lack any, the restore is made a lazy one.
    pub(super) async fn prove(&mut self, staged: &Staged) -> anyhow::Result<()> {
        let images = staged.checkpoint.clone();
        // What was never ended is not complete.
        self.arriving = None;
        let store = self.arrived.take();
        let proving = move || match store {
            Some(store) => store.prove(&images),
            None => Store::new(PathBuf::new(), 0).prove(&images),
        };
        let lazy_bytes = spawn_blocking(proving).await??;
        if lazy_bytes > 0 {
            staged.make_lazy().context("cannot prepare the restore")?;
        } else {
            self.give_up().await;
        }
        Ok(())
    }

    /// Who gives the processes their memory, if they need one.
    pub(super) fn pager(&mut self) -> Option<&mut Pager> {
        self.pager.as_mut()
    }

    /// The container runs here for good.
    pub(super) fn leave(&mut self) {
        if let Some(pager) = self.pager.take() {
            pager.leave();
        }
    }

    /// Ends the pager, unless there are processes that need it, and waits until nothing arrives any more.
    pub(super) async fn give_up(&mut self) {
        if let Some(arriving) = self.arriving.take() {
            let _ = arriving.await;
        }
        if let Some(mut pager) = self.pager.take() {
            let _ = spawn_blocking(move || pager.end()).await;
        }
    }
}
