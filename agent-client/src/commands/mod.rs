//! The commands, a file each.

mod cancel;
mod check;
mod cleanup;
mod completion;
mod forward;
mod migrate;
mod pair;
mod peers;
mod recover;
mod resolve;
mod status;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use trust::Token;

use self::migrate::Options;
use crate::cli::{Cli, Command, USAGE};
use crate::format::Format;
use crate::migrate::is_usage_error;
use crate::{interactive, recovery};

/// Runs the command; prints an error once.
pub(crate) fn run(cli: Cli) -> ExitCode {
    common::log::init(cli.verbose, "warn");
    if let Some(Command::Completion { shell }) = cli.command {
        completion::completion(shell);
        return ExitCode::SUCCESS;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("agent-client: needs root: it handles root's containers, network and keys");
        return ExitCode::from(USAGE);
    }
    let done = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(execute(cli.command)));
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("agent-client: {error:#}");
            ExitCode::from(if is_usage_error(&error) { USAGE } else { 1 })
        }
    }
}

async fn execute(command: Option<Command>) -> anyhow::Result<u8> {
    let interactive = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    match command {
        None if !interactive => {
            eprintln!(
                "agent-client: stdin is not a terminal, so there is nobody to ask: use \
                 `agent-client migrate CONTAINER --to HOST --yes` (`agent-client --help`)"
            );
            Ok(USAGE)
        }
        None => {
            recovery::first().await;
            let (container, to) = interactive::ask().await?;
            migrate::migrate(&container, to, Options::default()).await
        }
        Some(Command::Migrate {
            container,
            to,
            yes,
            dry_run,
            max_freeze_ms,
            forward_new,
            format,
        }) => {
            if !(yes || dry_run || interactive && format == Format::Text) {
                eprintln!(
                    "agent-client: there is nobody to ask whether to go on: add --yes, or \
                     --dry-run to only look"
                );
                return Ok(USAGE);
            }
            recovery::first().await;
            let options = Options {
                yes,
                dry_run,
                max_freeze: Duration::from_millis(max_freeze_ms),
                forward_new,
                format,
            };
            migrate::migrate(&container, to, options).await
        }
        Some(Command::Check {
            container,
            to,
            format,
        }) => {
            recovery::first().await;
            check::check(&container, to, format).await
        }
        Some(Command::Pair { host, token }) => {
            let token: Token = match (token.token, token.token_file) {
                (Some(text), _) => text.trim().parse()?,
                (None, Some(path)) => pair::read_token(&path)?,
                (None, None) => unreachable!("clap requires one of them"),
            };
            pair::pair(&host, token).await?;
            Ok(0)
        }
        Some(Command::Peers { command }) => peers::peers(command),
        Some(Command::Forward { command }) => {
            recovery::first().await;
            tokio::task::spawn_blocking(move || forward::forward(command)).await?
        }
        Some(Command::Status { format }) => {
            recovery::first().await;
            tokio::task::spawn_blocking(move || status::status(format)).await?
        }
        Some(Command::Recover { id, format }) => recover::recover(id.as_deref(), format).await,
        Some(Command::Cleanup) => cleanup::cleanup().await,
        Some(Command::Resolve { id, keep }) => resolve::resolve(&id, keep).await,
        Some(Command::Cancel { id }) => cancel::cancel(&id).await,
        Some(Command::Completion { .. }) => unreachable!("handled before"),
    }
}
