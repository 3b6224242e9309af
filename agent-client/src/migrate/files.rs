//! Sends the container's files while it runs.

use common::container::files::payload::Sent;
use common::protocol::{Request, StreamKind};
use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::source::{Data, Source};

/// Number of the first of their streams. The image, the skeleton and the checkpoint have the
/// numbers before.
const FIRST_STREAM: u32 = 4;

/// A pass over the files that sends less than this, in bytes, is the last before the outage.
const FEW_BYTES: u64 = 8 << 20;

/// Most passes over the files after the first.
const MOST_PASSES: u32 = 4;

/// Sends the files while the container runs, then repeatedly what has changed meanwhile, until
/// little is left for the outage or the amount stops shrinking. The destination's warnings are
/// added to `warnings`.
pub(super) async fn send(
    source: &Source,
    data: &Data,
    control: &mut Control,
    cancel: &CancellationToken,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Sent> {
    let mut sent = None;
    let mut before = u64::MAX;
    for pass in 0.. {
        let stream = FIRST_STREAM + pass;
        let kind = StreamKind::Files;
        control.ask(Request::Receive { stream, kind }).await?;
        let packed = source.send_files(stream, data, sent, cancel).await;
        let (digest, so_far) = match packed {
            Ok((digest, so_far)) => (Ok(digest), Some(so_far)),
            Err(error) => (Err(error.context("cannot send the files")), None),
        };
        let bytes = digest.as_ref().map_or(0, |digest| digest.bytes);
        control.end_stream(digest, warnings).await?;
        sent = so_far;
        if bytes < FEW_BYTES || bytes > before / 2 || pass == MOST_PASSES {
            break;
        }
        before = bytes;
    }
    Ok(sent.unwrap_or_default())
}
