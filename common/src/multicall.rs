//! The agents' executables act as other programs when called by other names.
//!
//! Podman is told to use `skeleton-runtime` as its OCI runtime or `gate-conmon` as its conmon;
//! both are symbolic links to the agent that runs Podman.

use std::ffi::OsString;
use std::path::Path;

use crate::container::{gate, skeleton};

/// If this process was started under one of those names, acts as that program and exits.
///
/// Call first in `main`, before any thread is started.
pub fn dispatch() {
    let mut arguments = std::env::args_os();
    let called_as = arguments.next().unwrap_or_default();
    let act: fn(&[OsString]) -> i32 = match Path::new(&called_as).file_name() {
        Some(name) if name == skeleton::RUNTIME_NAME => skeleton::runtime,
        Some(name) if name == gate::CONMON_NAME => gate::conmon,
        _ => return,
    };
    let arguments: Vec<OsString> = arguments.collect();
    std::process::exit(act(&arguments));
}
