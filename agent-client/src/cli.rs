//! Command line.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use settings::Settings;

use crate::address::Address;
use crate::choices::Choices;
use crate::format::Format;

/// Exit status for mistakes in the command line; the others are in
/// [`Outcome::exit_status`](common::report::Outcome::exit_status).
pub(crate) const USAGE: u8 = 2;

/// Longest freeze unless the user says otherwise: no client waits longer than this, and a step that
/// hangs must not keep the container frozen for ever.
pub(crate) const MAX_FREEZE_MS: u64 = 120_000;

/// The file with settings, unless another is named.
const SETTINGS: &str = "/etc/live-migration/agent-client.toml";

/// Moves a running Podman container to another host while its clients keep talking to it.
///
/// Without arguments, on a terminal, it asks what to move where.
#[derive(Debug, Parser)]
#[command(version, after_help = HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Log more; twice for everything. The environment variable RUST_LOG overrides it.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// A file with defaults for options: those that an environment variable can set, too. Otherwise it is
    /// /etc/live-migration/agent-client.toml, if there is one.
    #[arg(long, value_name = "FILE", global = true, env = "AGENT_CLIENT_CONFIG")]
    config: Option<PathBuf>,
}

impl Cli {
    /// Reads this process's command line; on a mistake there, or in the file of settings, says so and exits.
    pub(crate) fn read() -> Self {
        Self::of(std::env::args_os().collect())
    }

    /// Reads the words of a command line, as [`Cli::read`] does.
    pub(crate) fn of(words: Vec<OsString>) -> Self {
        let (program, _) = Self::with_settings(&words);
        let matches = program.get_matches_from(words);
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// What `config show` prints.
    pub(crate) fn settings() -> String {
        let words: Vec<OsString> = std::env::args_os().collect();
        let (_, settings) = Self::with_settings(&words);
        settings.shown(&Self::command())
    }

    fn with_settings(words: &[OsString]) -> (clap::Command, Settings) {
        let program = Self::command();
        settings::with_file(program, words, Path::new(SETTINGS)).unwrap_or_else(|error| {
            eprintln!("agent-client: {error}");
            std::process::exit(USAGE.into())
        })
    }
}

const HELP: &str = "\
Examples:
  agent-client                               ask, show the plan, ask again, move
  agent-client pair b --token-file token     once per destination; `agent-server invite` there
  agent-client check web --to b              would it work? one line per check
  agent-client migrate web --to b --yes      move the container web to host b
  agent-client migrate web --to b --yes --format json | jq .freeze_ms
  agent-client evacuate --to b,c --dry-run   where everything here could go
  agent-client cancel 1e4a                   undo it while it is under way (ids: `status`)
  agent-client history 1e4a                  where its time went
  agent-client forward list                  ports here that lead to containers that have moved away
  agent-client recover                       finish or undo what was interrupted

Exit status:
  0  moved (or, with --dry-run, nothing stands in the way)
  1  failed; the container runs on here
  2  mistake in the command line
  3  an operator must look
  4  refused by preflight or a hook; nothing was changed

Hooks:
  Programs in /etc/live-migration/hooks/before.d and after.d are run before and after a migration.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    AsRoot(AsRoot),
    /// The options that a file or the environment can set.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print a completion script for a shell.
    Completion {
        /// The shell that will read it.
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory. For those who make packages.
    #[command(hide = true)]
    Manual {
        /// The directory, which is made if there is none.
        directory: PathBuf,
    },
}

/// What needs root: it handles root's containers, network and keys.
#[derive(Debug, Subcommand)]
pub(crate) enum AsRoot {
    /// Move a container, or several.
    Migrate {
        /// Name, id or unique prefix of a running container. With several, nothing moves unless all can; what is said
        /// of mounts, volumes and checks needs a command for each.
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
        /// Where to: a paired agent-server, on port 50051 unless another is given.
        #[arg(long, value_name = "HOST[:PORT]", env = "AGENT_CLIENT_TO")]
        to: Address,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
        /// Only check whether it would work.
        #[arg(long)]
        dry_run: bool,
        /// Longest that the container may stay frozen before the commit, in milliseconds; after
        /// that the migration is undone.
        #[arg(long, value_name = "MS", env = "AGENT_CLIENT_MAX_FREEZE_MS", default_value_t = MAX_FREEZE_MS,
              value_parser = clap::value_parser!(u64).range(1..))]
        max_freeze_ms: u64,
        /// Afterwards, forward new connections to the ports published here to the container's new
        /// host, until `forward remove`.
        #[arg(long, value_name = "false", env = "AGENT_CLIENT_FORWARD_NEW", action = clap::ArgAction::Set,
              num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true",
              hide_default_value = true, hide_possible_values = true)]
        forward_new: bool,
        #[command(flatten)]
        choices: Choices,
        /// How to print the result; JSON is one object on stdout (docs/report.md).
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Move all containers of this host to others, after a plan of what goes where.
    ///
    /// What has moved is not here any more, so the same command goes on where it was ended.
    Evacuate {
        /// Where to: paired agent-servers. Containers are spread by free memory; those that know each other by name stay
        /// together.
        #[arg(
            long,
            value_name = "HOST[:PORT],…",
            env = "AGENT_CLIENT_TO",
            required = true,
            value_delimiter = ','
        )]
        to: Vec<Address>,
        /// Only containers that came here from another host.
        #[arg(long = "return")]
        guests: bool,
        /// Move those that can although others cannot, and go on if one fails.
        #[arg(long)]
        keep_going: bool,
        /// How many may be on their way at a time, if they share no network. Outages grow with it.
        #[arg(
            long,
            value_name = "N",
            env = "AGENT_CLIENT_PARALLEL",
            default_value = "1"
        )]
        parallel: NonZeroUsize,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
        /// Only print the plan.
        #[arg(long)]
        dry_run: bool,
        /// Longest that each container may stay frozen before the commit, in milliseconds; after
        /// that its migration is undone.
        #[arg(long, value_name = "MS", env = "AGENT_CLIENT_MAX_FREEZE_MS", default_value_t = MAX_FREEZE_MS,
              value_parser = clap::value_parser!(u64).range(1..))]
        max_freeze_ms: u64,
        /// How to print the result; JSON is one object on stdout (docs/report.md).
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Check whether a container could move, and print what holds and what does not, a line each. Changes
    /// nothing.
    Check {
        /// Name, id or unique prefix of a container.
        container: String,
        /// Where to: a paired agent-server, on port 50051 unless another is given.
        #[arg(long, value_name = "HOST[:PORT]", env = "AGENT_CLIENT_TO")]
        to: Address,
        #[command(flatten)]
        choices: Choices,
        /// How to print the result.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Pair with a destination, with a token from `agent-server invite` there.
    Pair {
        /// Where agent-server runs, on port 50051 unless another is given.
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
    /// Ports here whose new connections are forwarded to containers that have moved away (`migrate
    /// --forward-new`).
    Forward {
        #[command(subcommand)]
        command: ForwardCommand,
    },
    /// Tunnels, and migrations under way and past; of interrupted ones, what `recover` would do. Changes
    /// nothing.
    Status {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Past migrations from and to this host, newest last, a line each; or one of them, phase by phase. Records are kept
    /// for 90 days. Changes nothing.
    History {
        /// Only this one: its id, or a unique prefix.
        id: Option<String>,
        /// Also draw its phases into this file, as SVG.
        #[arg(long, value_name = "FILE", requires = "id")]
        svg: Option<PathBuf>,
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Finish or undo migrations that were interrupted. `migrate`, `cleanup` and `forward remove` do it too.
    ///
    /// Exit status: 0 if nothing is left open, 3 if something is; the output then says why and what
    /// to do.
    Recover {
        /// Only this one: its id, or a unique prefix.
        id: Option<String>,
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Take down tunnels that nothing needs any more, and say what the others are kept for. Interrupted
    /// migrations are finished or undone first. Safe at any time.
    Cleanup,
    /// Decide a migration whose destination is gone for good.
    ///
    /// The destination is asked first; if it answers and knows, its answer wins.
    Resolve {
        /// Its id, or a unique prefix.
        id: String,
        /// Where the container is to run.
        #[arg(long, value_enum)]
        keep: Keep,
    },
    /// Undo a migration that is under way. Possible until its commit.
    Cancel {
        /// Its id, or a unique prefix.
        id: String,
    },
}

/// Where a token comes from.
#[derive(Debug)]
pub(crate) enum TokenSource {
    Text(String),
    File(PathBuf),
}

/// The same, as clap knows it: one of them is given.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TokenArgs {
    /// The token itself; other users of this host can see it while the command runs.
    #[arg(long)]
    token: Option<String>,
    /// A file with the token.
    #[arg(long)]
    token_file: Option<PathBuf>,
}

impl FromArgMatches for TokenSource {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let TokenArgs { token, token_file } = TokenArgs::from_arg_matches(matches)?;
        let text = token.map(TokenSource::Text);
        text.or(token_file.map(TokenSource::File))
            .ok_or_else(|| clap::Error::new(ErrorKind::MissingRequiredArgument))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for TokenSource {
    fn augment_args(command: clap::Command) -> clap::Command {
        TokenArgs::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        TokenArgs::augment_args_for_update(command)
    }
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print them all, with where each comes from, as a file of settings.
    Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeersCommand {
    /// List the destinations, with the fingerprints of their keys.
    List,
    /// Forget a destination: nothing can be moved there any more.
    Remove {
        /// Its name, address, or the beginning of its fingerprint.
        peer: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ForwardCommand {
    /// List the ports. Changes nothing.
    List {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Stop forwarding new connections to a container, and unbind its ports. Existing connections go
    /// on.
    Remove {
        /// Its name, id or unique prefix.
        container: String,
    },
}

/// Which host keeps the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Keep {
    /// Here: the frozen copy runs on.
    Source,
    /// There: the frozen copy here is removed.
    Destination,
}
