//! `lab`: test hosts from the command line.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lab::{Distribution, Kind, Lab, Part};

/// Test hosts made of Linux namespaces, or virtual machines, with Podman, CRIU and runc, on their
/// own switch.
#[derive(Parser)]
#[command(name = "lab", after_help = EXAMPLE)]
struct Cli {
    /// Which lab: several can exist side by side.
    #[arg(long, global = true, env = "LAB_NAME", default_value = "lab")]
    name: String,
    /// Hosts that `up` adds are virtual machines.
    #[arg(long, global = true)]
    vm: bool,
    /// Hosts that `up` adds are virtual machines with systemd and a distribution's defaults: `trixie`, which is
    /// Debian 13, or `forky`, optionally followed by `-firewalld` (with NetworkManager), `-ufw` or `-runc`.
    #[arg(
        long,
        global = true,
        conflicts_with_all = ["vm", "services"],
        value_name = "NAME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "trixie"
    )]
    systemd: Option<Distribution>,
    /// Namespace hosts that `up` adds have systemd as their first process, and Debian's defaults.
    #[arg(long, global = true, conflicts_with = "vm")]
    services: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "\
Example:
  lab up a b c
  lab exec a ping -c 1 b
  lab put a target/debug/agent-client /usr/local/bin/
  lab exec a            (a shell)
  lab exec switch tcpdump -ni switch
  lab down

Two hosts that differ, each as `apt-get install podman criu apparmor` leaves it:
  lab --systemd up a
  lab --systemd=forky up b
  lab exec a reboot     (or power it off), then `up` it again";

#[derive(Subcommand)]
enum Command {
    /// Start hosts; those that already run are left alone.
    Up {
        /// Their names: anything but `switch`.
        #[arg(required = true)]
        hosts: Vec<String>,
    },
    /// Run a command in a host; exits as the command does.
    Exec {
        /// A host, or `switch`.
        host: String,
        /// The command and its arguments; a shell if there is none.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Copy a file, or the contents of a directory, into a host.
    Put {
        /// A host.
        host: String,
        /// A file or directory of this machine.
        src: PathBuf,
        /// Where it goes; if it is a directory or ends in `/`, into it.
        dst: String,
    },
    /// Kill everything that runs in the lab and delete its disks.
    Down,
    /// List the hosts and whether they run.
    Status,
    /// Print the path of the hosts' root file system, building it if there is none.
    Rootfs,
    /// A part of a virtual machine, which the other commands start.
    #[command(subcommand, hide = true)]
    Machine(Part),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("lab: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let name = &cli.name;
    match cli.command {
        Command::Up { hosts } => {
            let kind = match (cli.systemd, cli.vm, cli.services) {
                (Some(distribution), ..) => Kind::Systemd(distribution),
                (None, true, _) => Kind::Machine,
                (None, _, true) => Kind::Services,
                _ => Kind::Namespaces,
            };
            let hosts: Vec<_> = hosts.iter().map(|host| (host.as_str(), kind)).collect();
            Lab::up_as(name, &hosts)?.keep();
        }
        Command::Exec { host, command } => return exec(&Lab::open(name)?, &host, &command),
        Command::Put { host, src, dst } => Lab::open(name)?.find(&host)?.put(src, &dst)?,
        Command::Down => Lab::destroy(name)?,
        Command::Status => status(&Lab::open(name)?)?,
        Command::Rootfs => println!("{}", lab::rootfs()?.display()),
        Command::Machine(part) => return Ok(ExitCode::from(part.run()?)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes the command. Returns only if that fails, with the code that a shell would return.
fn exec(lab: &Lab, host: &str, command: &[String]) -> Result<ExitCode> {
    let shell = "bash".to_owned();
    let (program, arguments) = command.split_first().unwrap_or((&shell, &[]));
    let error = lab.find(host)?.command(program).args(arguments).exec();
    eprintln!("lab: cannot run {program:?} on {host}: {error}");
    Ok(ExitCode::from(match error.kind() {
        io::ErrorKind::NotFound => 127,
        io::ErrorKind::PermissionDenied => 126,
        _ => 125,
    }))
}

fn status(lab: &Lab) -> Result<()> {
    let mut out = io::stdout().lock();
    for host in lab.hosts().iter().chain([lab.switch()]) {
        let (name, ipv4, ipv6) = (host.name(), host.ipv4(), host.ipv6());
        let state = match host.init() {
            Some(pid) if host.kind().is_machine() => format!("up (emulator {pid})"),
            Some(pid) => format!("up (init {pid})"),
            None => "down".to_owned(),
        };
        writeln!(
            out,
            "{name:15} {:15} {:18} {state}",
            ipv4.to_string(),
            ipv6.to_string()
        )?;
    }
    Ok(())
}
