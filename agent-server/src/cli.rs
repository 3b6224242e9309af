//! Command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use common::container::binds::Allowed;
use common::paths;
use common::status::{Status, clean_up};
use settings::Settings;
use trust::{Identity, Invites, Peers};

use crate::listener;
use crate::metrics::endpoint::Access;

/// Receives running Podman containers from hosts that are paired with this one.
///
/// Without a command it listens for migrations, as `serve` does.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
    /// Log more; twice for everything. The environment variable RUST_LOG overrides it.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// A file with defaults for options: those that an environment variable can set, too. Otherwise it is
    /// /etc/live-migration/agent-server.toml, if there is one.
    #[arg(long, value_name = "FILE", global = true, env = "AGENT_SERVER_CONFIG")]
    config: Option<PathBuf>,
}

/// Exit status for mistakes in the command line or the settings, as clap has it.
const USAGE: i32 = 2;

/// The file with settings, unless another is named.
const SETTINGS: &str = "/etc/live-migration/agent-server.toml";

const EXAMPLES: &str = "\
Examples:
  agent-server                           listen on port 50051
  agent-server invite > token            let one more host pair with this one
  agent-server peers list                who may send containers here
  agent-server status                    tunnels, and migrations under way and past";

#[derive(Debug, Subcommand)]
enum Command {
    /// Listen for migrations until SIGTERM or SIGINT.
    Serve(Serve),
    /// Print a token that lets one host pair with this one, once.
    ///
    /// The token goes to stdout, what to do with it to stderr. It is a secret: whoever uses it
    /// first may send containers here.
    Invite {
        /// Seconds until it expires.
        #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
        ttl_s: u64,
    },
    /// Hosts that may send containers here.
    Peers {
        #[command(subcommand)]
        command: PeersCommand,
    },
    /// Tunnels, and migrations under way and past.
    Status {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Take down tunnels that nothing needs any more, and say what the others are kept for. Safe at any
    /// time.
    Cleanup,
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

/// How to listen.
#[derive(Debug, Args)]
struct Serve {
    /// Address and port to listen on. `[::]` means all addresses, IPv4 included.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "AGENT_SERVER_LISTEN",
        default_value = "[::]:50051"
    )]
    listen: SocketAddr,
    /// Let containers that come bind this directory or file and what is below, and let peers put there
    /// what their containers have bound. May be given several times, or several with colons between them. Without it,
    /// they get only what they could have anyway: see SECURITY.md.
    #[arg(long, value_name = "PATH", env = "AGENT_SERVER_ALLOW_BIND", value_delimiter = ':', value_parser = absolute)]
    allow_bind: Vec<PathBuf>,
    /// Tell how migrations go, in the format OpenMetrics, at http://ADDRESS:PORT/metrics. The address must be one of this
    /// host alone, such as 127.0.0.1, unless a token is asked for.
    #[arg(long, value_name = "ADDRESS:PORT", env = "AGENT_SERVER_METRICS")]
    metrics: Option<SocketAddr>,
    /// A file with the token that whoever asks for the metrics must know (`Authorization: Bearer TOKEN`). It is sent in
    /// the clear.
    #[arg(
        long,
        value_name = "FILE",
        env = "AGENT_SERVER_METRICS_TOKEN_FILE",
        requires = "metrics"
    )]
    metrics_token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum ConfigCommand {
    /// Print them all, with where each comes from, as a file of settings.
    Show,
}

#[derive(Debug, Subcommand)]
enum PeersCommand {
    /// List the hosts, with the fingerprints of their keys.
    List,
    /// Refuse one from now on and end its sessions. Containers that came from it stay, and so do the tunnel and
    /// the connections through it.
    Remove {
        /// Its name, or the beginning of its fingerprint.
        peer: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Cli {
    /// Reads this process's command line; on a mistake there, or in the file of settings, says so and exits.
    pub fn read() -> Self {
        let words: Vec<OsString> = std::env::args_os().collect();
        let (program, _) = Self::with_settings(&words);
        Self::of(program.get_matches_from(words)).unwrap_or_else(|error| error.exit())
    }

    fn with_settings(words: &[OsString]) -> (clap::Command, Settings) {
        let program = Self::command();
        settings::with_file(program, words, Path::new(SETTINGS)).unwrap_or_else(|error| {
            eprintln!("agent-server: {error}");
            std::process::exit(USAGE)
        })
    }

    /// What is to be served stands beside the command only if there is none: with another it would have no effect.
    fn of(matches: ArgMatches) -> Result<Self, clap::Error> {
        let given = |option| matches.value_source(option) == Some(ValueSource::CommandLine);
        let options = ["listen", "allow_bind", "metrics", "metrics_token_file"];
        let misplaced = options.into_iter().find(|&o| given(o));
        match (matches.subcommand_name(), misplaced) {
            (Some(command), Some(option)) => {
                let option = option.replace('_', "-");
                let message = format!(
                    "--{option} cannot come before the command `{command}`; \
                     with `serve` it comes after it\n"
                );
                Err(Self::command().error(ErrorKind::ArgumentConflict, message))
            }
            _ => Self::from_arg_matches(&matches),
        }
    }
}

/// Runs the command; on failure prints the error.
pub fn run(cli: Cli) -> ExitCode {
    common::log::init(cli.verbose, "info");
    match execute(cli.command.unwrap_or(Command::Serve(cli.serve))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.is_absolute() {
        true => Ok(path),
        false => Err("not an absolute path".into()),
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    let as_anybody = matches!(
        command,
        Command::Config { .. } | Command::Completion { .. } | Command::Manual { .. }
    );
    if !as_anybody {
        anyhow::ensure!(
            nix::unistd::geteuid().is_root(),
            "needs root: it handles root's containers, network and keys"
        );
    }
    match command {
        Command::Serve(Serve {
            listen,
            allow_bind,
            metrics,
            metrics_token_file,
        }) => {
            let allowed = Allowed::below(allow_bind);
            let metrics = match metrics {
                Some(at) => Some((at, Access::at(at, metrics_token_file.as_deref())?)),
                None => None,
            };
            let serving = listener::serve(listen, allowed, metrics);
            tokio::runtime::Runtime::new()?.block_on(serving)
        }
        Command::Invite { ttl_s } => invite(Duration::from_secs(ttl_s)),
        Command::Peers { command } => peers(command),
        Command::Status { format } => status(format),
        Command::Cleanup => {
            print!("{}", clean_up()?);
            Ok(())
        }
        Command::Config {
            command: ConfigCommand::Show,
        } => {
            let words: Vec<OsString> = std::env::args_os().collect();
            let (_, settings) = Cli::with_settings(&words);
            print!("{}", settings.shown(&Cli::command()));
            Ok(())
        }
        Command::Manual { directory } => {
            manual::write(Cli::command(), &directory)?;
            Ok(())
        }
        Command::Completion { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "agent-server",
                &mut std::io::stdout(),
            );
            Ok(())
        }
    }
}

fn invite(ttl: Duration) -> anyhow::Result<()> {
    let directory = paths::server_dir();
    let name = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    let identity = Identity::load_or_create(&directory, &name)?;
    let token = Invites::open(&directory)?.create(ttl, identity.fingerprint())?;
    eprintln!(
        "Valid once, for {} min. On the host that will send containers here:\n  \
         agent-client pair {name} --token-file FILE   (with the line below in FILE)",
        ttl.as_secs().div_ceil(60)
    );
    println!("{}", token.reveal());
    Ok(())
}

fn peers(command: PeersCommand) -> anyhow::Result<()> {
    let peers = Peers::open(&paths::server_dir())?;
    match command {
        PeersCommand::List => {
            for peer in peers.list()? {
                println!("{}\t{}", peer.name, peer.fingerprint);
            }
        }
        PeersCommand::Remove { peer } => {
            let removed = peers.remove(&peer)?;
            eprintln!(
                "{} may not send containers here any more. A server that runs ends its sessions within \
                 a second, which undoes migrations under way. What goes on: containers that came from \
                 it, and their connections, through the tunnel to it until the last one ends \
                 (`agent-server status`)",
                removed.name
            );
        }
    }
    Ok(())
}

fn status(format: Format) -> anyhow::Result<()> {
    let status = Status::gather("server")?;
    match format {
        Format::Json => println!("{}", serde_json::to_string(&status)?),
        Format::Text => print!("{status}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        let words = std::iter::once("agent-server").chain(line.split_whitespace());
        Cli::of(Cli::command().try_get_matches_from(words)?)
    }

    #[test]
    fn without_a_command_it_serves() {
        let served = |line: &str| match read(line).unwrap() {
            Cli {
                command: None,
                serve,
                ..
            } => serve,
            Cli {
                command: Some(Command::Serve(serve)),
                ..
            } => serve,
            other => panic!("{other:?}"),
        };
        let usual = SocketAddr::from(([0; 16], 50051));
        assert_eq!(served("").listen, usual);
        assert_eq!(served("-v").listen, usual);
        assert_eq!(served("serve").listen, usual);
        let options = "--listen 127.0.0.1:7 --allow-bind /srv/a --allow-bind /b";
        let named = format!("serve {options}");
        for line in [options, &named] {
            let Serve {
                listen, allow_bind, ..
            } = served(line);
            assert_eq!(listen, SocketAddr::from(([127, 0, 0, 1], 7)), "{line}");
            assert_eq!(allow_bind, [PathBuf::from("/srv/a"), "/b".into()], "{line}");
        }
    }

    #[test]
    fn the_man_pages_are_whole_and_well_formed() {
        let lacking = manual::lacking(Cli::command());
        assert!(lacking.is_empty(), "no sentence: {lacking:?}");
        for page in manual::pages(Cli::command()).unwrap() {
            match manual::complaints(&page) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    println!("skipped: groff is not installed");
                    return;
                }
                said => assert_eq!(said.unwrap(), "", "{}", page.file),
            }
        }
    }

    #[test]
    fn what_is_to_be_served_is_not_said_in_vain() {
        for line in [
            "--listen 127.0.0.1:7 status",
            "--allow-bind /srv serve",
            "status --listen 127.0.0.1:7",
        ] {
            read(line).unwrap_err();
        }
        assert!(matches!(
            read("-v status").unwrap().command,
            Some(Command::Status { .. })
        ));
    }
}
