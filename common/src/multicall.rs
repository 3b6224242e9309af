//! The agents' executables act as other programs when they are called by other names.
//!
//! Podman is told to use `skeleton-runtime` as its OCI runtime or `gate-conmon` as its conmon. Both
//! are symbolic links to the agent that runs Podman, and so is `service-starter`, which a service that
//! comes with a container runs for its first start. A tunnel's keeper is the agent started under the
//! name `tunnel-keeper`, and a container's pager `memory-pager`, which `ps` then shows.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::command;
use crate::container::restore::{gate, pager, skeleton, starter};
use crate::net::mark::Index;
use crate::net::state::Dirs;
use crate::net::tunnel::keeper;

const KEEPER_NAME: &str = "tunnel-keeper";

/// If this process was started under one of those names, acts as that program and exits.
///
/// Call first in `main`, before any thread is started.
pub fn dispatch() {
    let mut arguments = std::env::args_os();
    let called_as = arguments.next().unwrap_or_default();
    let act: fn(&[OsString]) -> i32 = match Path::new(&called_as).file_name() {
        Some(name) if name == skeleton::RUNTIME_NAME => skeleton::runtime,
        Some(name) if name == gate::CONMON_NAME => gate::conmon,
        Some(name) if name == starter::STARTER_NAME => starter::start,
        Some(name) if name == KEEPER_NAME => keep_tunnel,
        Some(name) if name == pager::PAGER_NAME => page_memory,
        _ => return,
    };
    let arguments: Vec<OsString> = arguments.collect();
    std::process::exit(act(&arguments));
}

fn page_memory(arguments: &[OsString]) -> i32 {
    log_to_stderr();
    pager::run(arguments)
}

fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

/// The command that becomes the keeper of tunnel `index`.
pub fn keeper_command(index: Index) -> Command {
    // Not the path it was started from: an upgrade may have replaced that file meanwhile.
    let mut command = command::blocking("/proc/self/exe");
    command.arg0(KEEPER_NAME).arg(index.to_string());
    command
}

fn keep_tunnel(arguments: &[OsString]) -> i32 {
    log_to_stderr();
    let index = arguments
        .first()
        .and_then(|a| a.to_str()?.parse::<u8>().ok()?.try_into().ok());
    let Some(index) = index else {
        eprintln!("{KEEPER_NAME}: the number of a tunnel is expected");
        return 2;
    };
    match keeper::run(&Dirs::default(), index, keeper_command) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error}");
            1
        }
    }
}
