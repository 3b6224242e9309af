//! Publishes the results of a run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The current time, RFC 3339.
pub(crate) fn date() -> Result<String> {
    Ok(OffsetDateTime::now_utc()
        .replace_nanosecond(0)?
        .format(&Rfc3339)?)
}

/// The last part of a path to which files can be written: pages refer to the files beside them by it.
pub(crate) fn name(output: &Path) -> Result<String> {
    let name = output.file_name().context("--output names no file")?;
    let directory = output.parent().unwrap_or(Path::new(""));
    ensure!(
        directory == Path::new("") || directory.is_dir(),
        "there is no directory {}",
        directory.display()
    );
    Ok(name.to_string_lossy().into_owned())
}

/// Writes a file with this extension.
pub(crate) fn write(output: &Path, extension: &str, text: &str) -> Result<()> {
    let path = output.with_extension(extension);
    fs::write(&path, text).with_context(|| path.display().to_string())
}

/// Writes the JSON.
pub(crate) fn json(output: &Path, record: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(record)? + "\n";
    write(output, "json", &json)
}
