//! The checkpoint of the frozen container on its way to the destination.

use common::bulk::Sender;
use common::container::files::payload::Sent;
use common::protocol::{Request, StreamDigest, StreamKind};
use tokio::task::spawn_blocking;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::control::Control;
use crate::source::{Data, Payload, Source};

/// Number of its stream. The image and the skeleton have the numbers before, files those after.
const STREAM: u32 = 3;

/// Its stream, open since before the freeze.
pub(super) struct Stream {
    pub(super) sender: Sender,
    /// Ends it.
    pub(super) cancel: CancellationToken,
}

impl Stream {
    /// Announces it and opens it. `cancel` ends it too.
    pub(super) async fn open(
        data: &Data,
        control: &mut Control,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let kind = StreamKind::Checkpoint;
        let request = Request::Receive {
            stream: STREAM,
            kind,
        };
        control.ask(request).await?;
        let cancel = cancel.child_token();
        let (path, ended) = (data.clone(), cancel.clone());
        let sender = spawn_blocking(move || path.open(STREAM, ended)).await??;
        Ok(Stream { sender, cancel })
    }
}

/// What has been sent so far, while CRIU was writing.
pub(super) struct Begun {
    /// However this ends, nobody must wait for what was not sent. Declared first, so that it is
    /// dropped before the buffer that `payload` holds.
    pub(super) unsent: DropGuard,
    pub(super) payload: anyhow::Result<Payload>,
}

impl Begun {
    /// Sends the rest, and what has changed of the files since `sent`.
    pub(super) async fn ship(self, source: &Source, sent: Sent) -> anyhow::Result<StreamDigest> {
        let _unsent = self.unsent;
        source.ship(self.payload?, sent).await
    }
}
