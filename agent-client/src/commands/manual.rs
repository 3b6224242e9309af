//! `manual`: the man pages of all commands.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::cli::Cli;

/// Writes the pages into the directory.
pub(super) fn manual(directory: &Path) -> ExitCode {
    match ::manual::write(Cli::command(), directory) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent-client: {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_man_pages_are_whole_and_well_formed() {
        let lacking = ::manual::lacking(Cli::command());
        assert!(lacking.is_empty(), "no sentence: {lacking:?}");
        for page in ::manual::pages(Cli::command()).expect("they are made") {
            match ::manual::complaints(&page) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    println!("skipped: groff is not installed");
                    return;
                }
                said => assert_eq!(said.expect("groff runs"), "", "{}", page.file),
            }
        }
    }
}
