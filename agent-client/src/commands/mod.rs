//! The commands, a file each.

mod cancel;
mod check;
mod cleanup;
mod completion;
mod forward;
mod history;
mod manual;
mod migrate;
mod pair;
mod peers;
mod recover;
mod resolve;
mod status;

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use self::migrate::Options;
use crate::choices::Choices;
use crate::cli::{AsRoot, Cli, Command, ConfigCommand, ForwardCommand, TokenSource, USAGE};
use crate::format::Format;
use crate::migrate::is_usage_error;
use crate::several::{self, Which};
use crate::{interactive, recovery};

/// Runs the command; on failure prints the error.
pub(crate) fn run(cli: Cli) -> ExitCode {
    common::log::init(cli.verbose, "warn");
    let command = match cli.command {
        Some(Command::Completion { shell }) => {
            completion::completion(shell);
            return ExitCode::SUCCESS;
        }
        Some(Command::Config {
            command: ConfigCommand::Show,
        }) => {
            print!("{}", Cli::settings());
            return ExitCode::SUCCESS;
        }
        Some(Command::Manual { directory }) => return manual::manual(&directory),
        Some(Command::AsRoot(command)) => Some(command),
        None => None,
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("agent-client: needs root: it handles root's containers, network and keys");
        return ExitCode::from(USAGE);
    }
    let done = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(execute(command)));
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("agent-client: {error:#}");
            ExitCode::from(if is_usage_error(&error) { USAGE } else { 1 })
        }
    }
}

/// Whether somebody has said yes, or can be asked to; otherwise says what is missing.
fn somebody_says_yes(said: bool, interactive: bool, format: Format) -> bool {
    let can = said || interactive && format == Format::Text;
    if !can {
        eprintln!(
            "agent-client: there is nobody to ask whether to go on: add --yes, or --dry-run to only check"
        );
    }
    can
}

/// Finishes or undoes what was interrupted; before a dry run, which changes nothing, only names it.
async fn recover_unless(dry_run: bool) {
    match dry_run {
        true => recovery::name_open(),
        false => recovery::first().await,
    }
}

async fn execute(command: Option<AsRoot>) -> anyhow::Result<u8> {
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
            // With what a file or the environment sets.
            let to = to.to_string();
            let words = ["agent-client", "migrate", &container, "--to", &to];
            let asked = Cli::of(words.map(Into::into).to_vec());
            let Some(Command::AsRoot(migrate)) = asked.command else {
                unreachable!("that is what was asked for");
            };
            Box::pin(execute(Some(migrate))).await
        }
        Some(AsRoot::Migrate {
            containers,
            to,
            yes,
            dry_run,
            max_freeze_ms,
            forward_new,
            choices,
            format,
        }) => {
            if !somebody_says_yes(yes || dry_run, interactive, format) {
                return Ok(USAGE);
            }
            let max_freeze = Duration::from_millis(max_freeze_ms);
            if let [container] = containers.as_slice() {
                recover_unless(dry_run).await;
                let options = Options {
                    yes,
                    dry_run,
                    max_freeze,
                    forward_new,
                    choices,
                    format,
                };
                return migrate::migrate(container, to, options).await;
            }
            if choices != Choices::default() {
                eprintln!(
                    "agent-client: --bind, --volume, --force and --overwrite are about one container: use a \
                     command for each that needs them"
                );
                return Ok(USAGE);
            }
            recover_unless(dry_run).await;
            let options = several::Options {
                yes,
                dry_run,
                parallel: NonZeroUsize::MIN,
                keep_going: false,
                max_freeze,
                forward_new,
                format,
            };
            migrate::migrate_all(Which::Named(containers), vec![to], options).await
        }
        Some(AsRoot::Evacuate {
            to,
            guests,
            keep_going,
            parallel,
            yes,
            dry_run,
            max_freeze_ms,
            format,
        }) => {
            if !somebody_says_yes(yes || dry_run, interactive, format) {
                return Ok(USAGE);
            }
            recover_unless(dry_run).await;
            let options = several::Options {
                yes,
                dry_run,
                parallel,
                keep_going,
                max_freeze: Duration::from_millis(max_freeze_ms),
                forward_new: false,
                format,
            };
            let which = match guests {
                true => Which::Guests,
                false => Which::All,
            };
            migrate::migrate_all(which, to, options).await
        }
        Some(AsRoot::Check {
            container,
            to,
            choices,
            format,
        }) => {
            recovery::name_open();
            check::check(&container, &to, &choices, format).await
        }
        Some(AsRoot::Pair { host, token }) => {
            let token = match token {
                TokenSource::Text(text) => text.trim().parse()?,
                TokenSource::File(path) => pair::read_token(&path)?,
            };
            pair::pair(&host, token).await?;
            Ok(0)
        }
        Some(AsRoot::Peers { command }) => peers::peers(command),
        Some(AsRoot::Forward { command }) => {
            match command {
                ForwardCommand::List { .. } => recovery::name_open(),
                ForwardCommand::Remove { .. } => recovery::first().await,
            }
            tokio::task::spawn_blocking(move || forward::forward(command)).await?
        }
        Some(AsRoot::Status { format }) => {
            tokio::task::spawn_blocking(move || status::status(format)).await?
        }
        Some(AsRoot::History { id, svg, format }) => {
            tokio::task::spawn_blocking(move || {
                history::history(id.as_deref(), svg.as_deref(), format)
            })
            .await?
        }
        Some(AsRoot::Recover { id, format }) => recover::recover(id.as_deref(), format).await,
        Some(AsRoot::Cleanup) => cleanup::cleanup().await,
        Some(AsRoot::Resolve { id, keep }) => resolve::resolve(&id, keep).await,
        Some(AsRoot::Cancel { id }) => cancel::cancel(&id).await,
    }
}
