//! `status`: tunnels, and migrations under way and past. Changes nothing.

use common::status::Status;
use serde::Serialize;

use crate::format::Format;
use crate::recovery::{self, Open};

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    status: Status,
    /// Migrations that `recover` would finish or undo.
    left_open: Vec<Open>,
}

pub(super) fn status(format: Format) -> anyhow::Result<u8> {
    let shown = Shown {
        status: Status::gather("client")?,
        left_open: recovery::left_open()?,
    };
    match format {
        Format::Json => println!("{}", serde_json::to_string(&shown)?),
        Format::Text => {
            print!("{}", shown.status);
            if !shown.left_open.is_empty() {
                println!("left open:");
            }
            for open in &shown.left_open {
                println!("  {open}");
            }
        }
    }
    Ok(0)
}
