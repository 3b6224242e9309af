//! Sends the container's files while it runs.

use common::container::files::payload::Sent;
use common::protocol::{Request, StreamKind};
use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::source::{Data, Source, Which};

/// Numbers of the first of their streams. The image, the skeleton and the checkpoint have the numbers
/// before.
const FIRST_STREAM: u32 = 4;
const FIRST_STREAM_OF_VOLUMES: u32 = 20;

/// A pass over the files that sends less than this, in bytes, is the last before the outage.
const FEW_BYTES: u64 = 8 << 20;

/// Most passes over the files after the first.
const MOST_PASSES: u32 = 4;

/// Sends what has changed since `sent`, or everything, while the container runs, then repeatedly what has
/// changed meanwhile, until little is left for the outage or the amount stops shrinking. The destination's
/// warnings are added to `warnings`.
pub(super) async fn send(
    which: Which,
    source: &Source,
    data: &Data,
    control: &mut Control,
    mut sent: Option<Sent>,
    cancel: &CancellationToken,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<Sent>> {
    let (kind, first) = match which {
        Which::Volumes => (StreamKind::Volumes, FIRST_STREAM_OF_VOLUMES),
        Which::All => (StreamKind::Files, FIRST_STREAM),
    };
    let mut before = u64::MAX;
    for pass in 0.. {
        let stream = first + pass;
        control.ask(Request::Receive { stream, kind }).await?;
        let packed = source.send_files(which, stream, data, sent, cancel).await;
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
    Ok(sent)
}
