//! `status`: tunnels, and migrations under way and past.

use common::status::Status;

use crate::format::Format;

pub(super) fn status(format: Format) -> anyhow::Result<u8> {
    let status = Status::gather("client")?;
    match format {
        Format::Json => println!("{}", serde_json::to_string(&status)?),
        Format::Text => print!("{status}"),
    }
    Ok(0)
}
