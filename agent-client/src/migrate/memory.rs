//! Sends the container's memory while it runs.

use common::protocol::{Request, StreamKind};
use tokio_util::sync::CancellationToken;

use crate::control::{Control, RequestError};
use crate::source::{Ahead, Data, Source};

/// Number of its stream. Those of the files have the numbers before.
const STREAM: u32 = 40;

/// Sends the memory ahead. The inner error leaves the other way: all of it goes in the outage.
pub(super) async fn send(
    source: &Source,
    data: &Data,
    control: &mut Control,
    cancel: &CancellationToken,
) -> Result<anyhow::Result<Ahead>, RequestError> {
    let request = Request::Receive {
        stream: STREAM,
        kind: StreamKind::Memory,
    };
    control.ask(request).await?;
    Ok(source.send_ahead(STREAM, data, cancel.clone()).await)
}
