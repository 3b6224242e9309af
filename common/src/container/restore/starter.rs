//! Runs Podman's restore as what a service starts: a process of the agent in the service's cgroup.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::systemd;

/// Name under which the agent's executable is linked, for a service to start it.
pub const STARTER_NAME: &str = "service-starter";

/// File in the scratch space that says what is started.
const START: &str = "start.json";

/// File in the scratch space, written at the gate, that says where conmon writes its process id.
pub(crate) const PID_FILE: &str = "conmon-pid-file";

/// A Podman command line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// Where its stderr goes.
    pub(crate) log: PathBuf,
}

impl Start {
    /// Writes it to the scratch space for the starter.
    pub(crate) fn write(&self, scratch: &Path) -> io::Result<()> {
        std::fs::write(scratch.join(START), serde_json::to_vec(self)?)
    }
}

/// Override of the service's unit for this start: it runs the agent's `program` with `scratch`, and
/// nothing else that its files say. The start may take as long as a migration does, and its failure is the
/// migration's.
pub(crate) fn override_of(program: &Path, scratch: &Path) -> String {
    format!(
        "[Service]\n\
         Type=notify\n\
         NotifyAccess=all\n\
         PIDFile=\n\
         Restart=no\n\
         RemainAfterExit=no\n\
         TimeoutStartSec=infinity\n\
         SuccessExitStatus=1\n\
         ExecCondition=\n\
         ExecStartPre=\n\
         ExecStart=\n\
         ExecStart=\"{}\" \"{}\"\n\
         ExecStartPost=\n\
         ExecStop=\n\
         ExecStopPost=\n",
        program.display(),
        scratch.display()
    )
}

/// Acts as the service's main process: runs Podman, and when the container runs, tells systemd that
/// conmon is the main process. Returns the exit status.
pub fn start(arguments: &[OsString]) -> i32 {
    let Some(scratch) = arguments.first() else {
        eprintln!("{STARTER_NAME}: the scratch space is expected");
        return 2;
    };
    match run(Path::new(scratch)) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(error) => {
            eprintln!("{STARTER_NAME}: {error}");
            1
        }
    }
}

fn run(scratch: &Path) -> io::Result<bool> {
    let start: Start = serde_json::from_slice(&std::fs::read(scratch.join(START))?)?;
    let status = Command::new("podman")
        .args(&start.arguments)
        .envs(&start.environment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&start.log)?)
        .status()?;
    if !status.success() {
        return Ok(false);
    }
    let pid_file = std::fs::read_to_string(scratch.join(PID_FILE))?;
    let conmon = std::fs::read_to_string(pid_file.trim())?;
    let conmon = conmon.trim().parse().map_err(io::Error::other)?;
    systemd::notify_ready(conmon)?;
    Ok(true)
}
