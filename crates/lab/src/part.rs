use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use crate::cgroup::Cgroup;
use crate::machine::{agent, keeper, service, session, setup};

/// The roles in which the program `lab` is started in and beside a virtual machine.
#[derive(Debug, Subcommand)]
pub enum Part {
    /// Its first process.
    Init,
    /// Runs commands in it, for connections to the socket that is stdin.
    Agent,
    /// The same as a systemd service, which creates its socket itself.
    Service,
    /// A command in it, in a session like that of a login.
    Session {
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Represents one of those commands on this machine.
    Run {
        /// The cgroup whose only process is the emulator.
        #[arg(long)]
        emulator: PathBuf,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

impl Part {
    /// Plays that role to its end; returns the status to exit with.
    pub fn run(self) -> Result<u8> {
        match self {
            Self::Init => setup::run().map(|()| 0),
            Self::Agent => agent::serve_stdin().map(|()| 0),
            Self::Service => service::run().map(|()| 0),
            Self::Session { command } => session::run(&command),
            Self::Run { emulator, command } => keeper::run(&Cgroup::at(emulator), &command),
        }
    }
}
