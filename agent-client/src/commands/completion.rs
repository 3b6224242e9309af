//! `completion`: a script for a shell.

use clap::CommandFactory;

use crate::cli::Cli;

/// Prints the script on stdout.
pub(super) fn completion(shell: clap_complete::Shell) {
    let mut out = std::io::stdout();
    clap_complete::generate(shell, &mut Cli::command(), "agent-client", &mut out);
}
