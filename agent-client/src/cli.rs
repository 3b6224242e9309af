//! Command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use common::preflight;
use common::report::{Outcome, Report};
use common::status::{Status, clean_up};
use common::{paths, units};
use tokio_util::sync::CancellationToken;
use trust::{Peers, Token};

use crate::address::Address;
use crate::migrate::{Migration, is_usage_error};
use crate::operator::{self, Keep};
use crate::progress::{Lines, Observer, Silent};
use crate::{checklist, forwards, interactive, pair, recovery};

/// Exit status for mistakes in the command line; the others are in [`Outcome::exit_status`].
const USAGE: u8 = 2;

/// Moves a running Podman container to another host while its clients keep talking to it.
///
/// Alone on a terminal it asks what to move where.
#[derive(Debug, Parser)]
#[command(version, after_help = HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Log more; twice for everything. RUST_LOG overrides it.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

const HELP: &str = "\
Examples:
  agent-client                               ask, show the plan, ask again, move
  agent-client pair b --token-file token     once per destination; `agent-server invite` there
  agent-client check web --to b              would it work? one line per thing looked at
  agent-client migrate web --to b --yes      move the container web to host b
  agent-client migrate web --to b --yes --format json | jq .freeze_ms
  agent-client cancel 1e4a                   undo it while it is under way (ids: `status`)
  agent-client forward list                  ports here that lead to containers that have moved away
  agent-client recover                       finish or undo what was interrupted

Exit status:
  0  moved (or, with --dry-run, nothing stands in the way)
  1  failed; the container runs on here
  2  mistake in the command line
  3  an operator must look
  4  refused by preflight; nothing was changed";

#[derive(Debug, Subcommand)]
enum Command {
    /// Move a container.
    Migrate {
        /// Name, id or unique prefix of a running container.
        container: String,
        /// Where to: a paired agent-server, on port 50051 unless another is given.
        #[arg(long, value_name = "HOST[:PORT]")]
        to: Address,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
        /// Only look whether it would work.
        #[arg(long)]
        dry_run: bool,
        /// Longest that the container may be frozen before it is committed, in milliseconds: past
        /// it, the migration is undone.
        #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
        max_freeze_ms: Option<u64>,
        /// Afterwards, send new connections to the ports published here after the container, until
        /// `forward remove`.
        #[arg(long)]
        forward_new: bool,
        /// How to print the result; JSON is one object on stdout (docs/report.md).
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Look whether a container could move, and say per line what holds and what does not.
    Check {
        /// Name, id or unique prefix of a container.
        container: String,
        /// Where to.
        #[arg(long, value_name = "HOST[:PORT]")]
        to: Address,
        /// How to print the result.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Pair with a destination, with a token from `agent-server invite` there.
    Pair {
        /// The destination.
        #[arg(value_name = "HOST[:PORT]")]
        host: Address,
        #[command(flatten)]
        token: TokenSource,
    },
    /// Destinations paired with this host.
    Peers {
        #[command(subcommand)]
        command: PeersCommand,
    },
    /// Ports here whose new connections go to containers that have moved away (`migrate
    /// --forward-new`).
    Forward {
        #[command(subcommand)]
        command: ForwardCommand,
    },
    /// Tunnels, and migrations under way and past.
    Status {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Finish or undo migrations that were interrupted. `migrate`, `check` and `status` do it too.
    ///
    /// Exit status: 0 if nothing is left open, 3 if something is; then it says why and what to do.
    Recover {
        /// Only this one: its id, or a unique prefix.
        id: Option<String>,
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Take down the tunnels that nothing needs any more, and say what the others are kept for. Finishes or
    /// undoes first what was interrupted. Safe at any time.
    Cleanup,
    /// Decide a migration whose destination is gone for good.
    ///
    /// If the destination can be asked after all and knows, its answer holds instead.
    Resolve {
        /// Its id, or a unique prefix.
        id: String,
        /// Where the container is to run.
        #[arg(long, value_enum)]
        keep: Keep,
    },
    /// Have a migration that is under way undone, up to its commit.
    Cancel {
        /// Its id, or a unique prefix.
        id: String,
    },
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct TokenSource {
    /// The token itself; other users of this host can see it while the command runs.
    #[arg(long)]
    token: Option<String>,
    /// A file with the token.
    #[arg(long)]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum PeersCommand {
    /// List them.
    List,
    /// Forget one.
    Remove {
        /// Its name, address, or the beginning of its fingerprint.
        peer: String,
    },
}

#[derive(Debug, Subcommand)]
enum ForwardCommand {
    /// List them.
    List {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Send no more connections after a container, and unbind its ports. Those that there are go on.
    Remove {
        /// Its name, id or unique prefix.
        container: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// Runs the command; prints an error once.
pub(crate) fn run(cli: Cli) -> ExitCode {
    common::log::init(cli.verbose, "warn");
    if let Some(Command::Completion { shell }) = cli.command {
        let mut out = std::io::stdout();
        clap_complete::generate(shell, &mut Cli::command(), "agent-client", &mut out);
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
            migrate(&container, to, Options::default()).await
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
                max_freeze: max_freeze_ms.map(Duration::from_millis),
                forward_new,
                format,
            };
            migrate(&container, to, options).await
        }
        Some(Command::Check {
            container,
            to,
            format,
        }) => {
            recovery::first().await;
            check(&container, to, format).await
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
        Some(Command::Peers { command }) => peers(command),
        Some(Command::Forward { command }) => {
            recovery::first().await;
            tokio::task::spawn_blocking(move || forward(command)).await?
        }
        Some(Command::Status { format }) => {
            recovery::first().await;
            tokio::task::spawn_blocking(move || status(format)).await?
        }
        Some(Command::Recover { id, format }) => operator::recover(id.as_deref(), format).await,
        Some(Command::Cleanup) => {
            let open = operator::recover(None, Format::Text).await?;
            print!("{}", tokio::task::spawn_blocking(clean_up).await??);
            Ok(open)
        }
        Some(Command::Resolve { id, keep }) => operator::resolve(&id, keep).await,
        Some(Command::Cancel { id }) => operator::cancel(&id).await,
        Some(Command::Completion { .. }) => unreachable!("handled before"),
    }
}

/// How a container migrates.
#[derive(Default)]
struct Options {
    yes: bool,
    dry_run: bool,
    max_freeze: Option<Duration>,
    forward_new: bool,
    format: Format,
}

async fn migrate(container: &str, to: Address, options: Options) -> anyhow::Result<u8> {
    let Options {
        yes,
        dry_run,
        max_freeze,
        forward_new,
        format,
    } = options;
    let cancel = CancellationToken::new();
    cancel_on_signals(cancel.clone())?;
    let observer: &dyn Observer = match format {
        Format::Text => &Lines::new(),
        Format::Json => &Silent,
    };
    let plan = to.clone();
    let (report, usage) = Migration::new(to, observer, cancel)
        .max_freeze(max_freeze)
        .forward_new(forward_new)
        .run(container, dry_run, &move |facts, checks| {
            yes || interactive::confirm(facts, checks, &plan)
        })
        .await;
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Text => summarize(&report),
    }
    Ok(if usage {
        USAGE
    } else {
        report.outcome.exit_status()
    })
}

/// The first Ctrl-C or SIGTERM rolls back; so does every further one, there is no faster way that
/// loses nothing.
fn cancel_on_signals(cancel: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            eprintln!("cancelling: rolling back unless the destination has taken over already");
            cancel.cancel();
        }
    });
    Ok(())
}

fn summarize(report: &Report) {
    for note in &report.notes {
        eprintln!("note: {note}");
    }
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    let name = report
        .container
        .as_ref()
        .map_or("the container", |c| c.name.as_str());
    let error = report.error.as_deref().unwrap_or("no reason known");
    match report.outcome {
        Outcome::Moved => {
            let total: u64 = report.phases.iter().map(|p| p.duration_ms).sum();
            println!(
                "{name} runs on {}: {} in all, {} frozen, {} sent, {} TCP and {} UDP flows moved",
                report.destination,
                units::milliseconds(total),
                units::milliseconds(report.freeze_ms),
                units::bytes(report.sent_bytes),
                report.flows.tcp,
                report.flows.udp
            );
            if !report.forwarded_ports.is_empty() {
                println!(
                    "new connections to {} here go there until `agent-client forward remove {name}`",
                    report.forwarded_ports.join(", ")
                );
            }
        }
        Outcome::Possible => println!("{name} could move to {}", report.destination),
        Outcome::Failed if report.freeze_ms > 0 => eprintln!(
            "agent-client: {error}\n{name} runs on here; it was frozen for {}",
            units::milliseconds(report.freeze_ms)
        ),
        Outcome::Failed if report.container.is_some() => {
            eprintln!("agent-client: {error}\n{name} runs on here, undisturbed");
        }
        Outcome::Failed => eprintln!("agent-client: {error}"),
        Outcome::Refused => eprintln!("agent-client: {name} cannot move: {error}"),
        Outcome::Unknown => eprintln!("agent-client: an operator must look: {error}"),
    }
}

async fn check(container: &str, to: Address, format: Format) -> anyhow::Result<u8> {
    let checks = Migration::new(to, &Silent, CancellationToken::new())
        .check(container)
        .await?;
    let passed = preflight::passed(&checks);
    match format {
        Format::Text => checklist::print(&checks),
        Format::Json => println!(
            "{}",
            serde_json::json!({ "passed": passed, "checks": checks })
        ),
    }
    Ok(if passed {
        0
    } else {
        Outcome::Refused.exit_status()
    })
}

fn peers(command: PeersCommand) -> anyhow::Result<u8> {
    let peers = Peers::open(&paths::client_dir())?;
    match command {
        PeersCommand::List => {
            for peer in peers.list()? {
                println!(
                    "{}\t{}\t{}",
                    peer.name,
                    peer.address.unwrap_or_default(),
                    peer.fingerprint
                );
            }
        }
        PeersCommand::Remove { peer } => {
            let removed = peers.remove(&peer)?;
            eprintln!("{} is forgotten", removed.name);
        }
    }
    Ok(0)
}

fn forward(command: ForwardCommand) -> anyhow::Result<u8> {
    match command {
        ForwardCommand::List { format } => forwards::list(format)?,
        ForwardCommand::Remove { container } => forwards::remove(&container)?,
    }
    Ok(0)
}

fn status(format: Format) -> anyhow::Result<u8> {
    let status = Status::gather("client")?;
    match format {
        Format::Json => println!("{}", serde_json::to_string(&status)?),
        Format::Text => print!("{status}"),
    }
    Ok(0)
}
