//! `cleanup`: takes down the tunnels that nothing needs any more.

use common::status::clean_up;

use super::recover::recover;
use crate::format::Format;

/// Finishes or undoes interrupted migrations first; returns what `recover` does.
pub(super) async fn cleanup() -> anyhow::Result<u8> {
    let open = recover(None, Format::Text).await?;
    print!("{}", tokio::task::spawn_blocking(clean_up).await??);
    Ok(open)
}
