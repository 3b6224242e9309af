use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use crate::cgroup::Cgroup;
use crate::machine::{agent, keeper, service, session, setup};

/// What the program `lab` is in and beside a virtual machine, when it is started as that.
#[derive(Debug, Subcommand)]
pub enum Part {
    /// Its first process.
    Init,
    /// What runs commands in it, for connections to the socket that is stdin.
    Agent,
    /// The same as a service of systemd, which makes its socket itself.
    Service,
    /// A command in it, in a session as of a login.
    Session {
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// What stands for one of those commands on this machine.
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
    /// Is that part to its end; returns the status to exit with.
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
