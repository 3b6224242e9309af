//! The way for bulk streams to the destination.

use std::io::{self, BufWriter};
use std::net::SocketAddr;

use common::bulk::{self, Sender};
use common::protocol::StreamDigest;
use common::ticket::Ticket;
use tokio_util::sync::CancellationToken;

/// Bytes that are gathered before they are sent.
const BUFFER: usize = 256 << 10;

/// Where they go, and how many bytes have gone.
#[derive(Clone)]
pub(crate) struct Data {
    pub(crate) address: SocketAddr,
    pub(crate) ticket: Ticket,
    pub(crate) sent: bulk::ByteCount,
}

impl Data {
    /// Opens stream number `stream`. Blocks.
    pub(crate) fn open(&self, stream: u32, cancel: CancellationToken) -> io::Result<Sender> {
        Sender::connect(
            self.address,
            &self.ticket,
            stream,
            self.sent.clone(),
            cancel,
        )
    }
}

/// Has small writes gathered. Ended by [`finished`].
pub(super) fn buffered(sender: Sender) -> BufWriter<Sender> {
    BufWriter::with_capacity(BUFFER, sender)
}

/// Sends what is left, and says what the stream was.
pub(super) fn finished(sender: BufWriter<Sender>) -> anyhow::Result<StreamDigest> {
    Ok(sender.into_inner().map_err(|e| e.into_error())?.finish()?)
}
