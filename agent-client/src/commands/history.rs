//! `history`: migrations that are past. Changes nothing.

use std::path::Path;

use anyhow::Context;

use crate::format::Format;
use crate::history::picture::picture;
use crate::history::text::{Timeline, line};
use crate::history::{all, one};

/// Prints all migrations on record, or the one whose id starts with `prefix`; `svg` gets its picture.
pub(super) fn history(
    prefix: Option<&str>,
    svg: Option<&Path>,
    format: Format,
) -> anyhow::Result<u8> {
    let Some(prefix) = prefix else {
        list(format)?;
        return Ok(0);
    };
    let past = one(prefix)?;
    match format {
        Format::Text => print!("{}", Timeline(&past)),
        Format::Json => println!("{}", serde_json::to_string_pretty(&past)?),
    }
    if let Some(path) = svg {
        let drawn = picture(&past).context("nothing to draw: this host has no report of it")?;
        std::fs::write(path, drawn).with_context(|| path.display().to_string())?;
    }
    Ok(0)
}

fn list(format: Format) -> anyhow::Result<()> {
    let (past, unreadable) = all()?;
    match format {
        Format::Text if past.is_empty() => println!("nothing has moved from or to this host"),
        Format::Text => past.iter().for_each(|past| println!("{}", line(past))),
        Format::Json => println!("{}", serde_json::to_string_pretty(&past)?),
    }
    for record in unreadable {
        eprintln!("agent-client: {record}");
    }
    Ok(())
}
