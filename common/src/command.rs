//! Running other people's programs, in an environment that does not depend on who runs the agents.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

/// The part of the agents' environment that programs get: what says where Podman's settings and
/// storage are, so that they are the same as for the `podman` that the operator types.
///
/// Nothing else. A login sets `XDG_RUNTIME_DIR`, below which crun looks for its containers, but
/// Podman starts it without. A service has `INVOCATION_ID` and `NOTIFY_SOCKET`, which make Podman
/// believe that it is what the service runs: it then leaves conmon in the service's cgroup
/// (libpod/oci_conmon_linux.go, `moveConmonToCgroupAndSignal`).
const KEPT: &[&str] = &[
    "HOME",
    "LANG",
    "TMPDIR",
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
    "STORAGE_DRIVER",
    "STORAGE_OPTS",
    // Only agents built with failpoints read it.
    #[cfg(feature = "failpoints")]
    "FAILPOINTS",
];

/// Where to look for programs if the agent has no `PATH`.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command line to be completed, for [`output`] and the like.
pub fn new(program: impl AsRef<OsStr>) -> Command {
    blocking(program).into()
}

/// The same for a thread that may block.
pub fn blocking(program: impl AsRef<OsStr>) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.env_clear();
    let path = std::env::var_os("PATH").unwrap_or_else(|| USUAL_PATH.into());
    command.env("PATH", path);
    for name in KEPT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// A program that could not be run or did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program is not installed or cannot be started.
    #[error("cannot run {program}: {source}")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The program ran and failed.
    #[error("{program} {verb} failed: {message}")]
    Failed {
        /// Its name.
        program: String,
        /// Its first argument or two.
        verb: String,
        /// The last lines it wrote to stderr, or its exit status.
        message: String,
    },
    /// A file that a program reads could not be written or removed.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The program did not end in time.
    #[error("{program} {verb} did not end within {} s", LIMIT.as_secs())]
    Hangs {
        /// Its name.
        program: String,
        /// Its first argument or two.
        verb: String,
    },
    /// The program's output is not in the format known for it.
    #[error("{program} printed something unexpected: {message}")]
    Output {
        /// Its name.
        program: String,
        /// What did not parse.
        message: String,
    },
}

/// How long a program may take whose work does not depend on the container's size. Most take a second;
/// on a slow, busy host, a Podman may take half a minute.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Runs `command` to its end, which must come within two minutes, and returns its stdout. The child is
/// killed if the future is dropped.
pub async fn stdout(command: &mut Command) -> Result<String, CommandError> {
    let output = limited(command, LIMIT).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(command, &output))
}

/// Runs `command` to its end, which must come within two minutes, whatever its status. The child is
/// killed if the future is dropped.
pub async fn output_in_time(command: &mut Command) -> Result<Output, CommandError> {
    limited(command, LIMIT).await
}

async fn limited(command: &mut Command, limit: Duration) -> Result<Output, CommandError> {
    match tokio::time::timeout(limit, output(command)).await {
        Ok(output) => output,
        Err(_) => Err(CommandError::Hangs {
            program: name(command),
            verb: verb(command),
        }),
    }
}

/// Runs `command` to its end, whatever its status.
pub async fn output(command: &mut Command) -> Result<Output, CommandError> {
    command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| CommandError::Start {
            program: name(command),
            source,
        })
}

/// The error for a `command` that ended with `output`.
pub fn failed(command: &Command, output: &Output) -> CommandError {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = stderr
        .lines()
        .rev()
        .filter(|l| !l.trim().is_empty())
        .take(3)
        .collect();
    let message = if last.is_empty() {
        output.status.to_string()
    } else {
        last.into_iter().rev().collect::<Vec<_>>().join("; ")
    };
    CommandError::Failed {
        program: name(command),
        verb: verb(command),
        message,
    }
}

fn verb(command: &Command) -> String {
    let words = command.as_std().get_args().take(2);
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

fn name(command: &Command) -> String {
    Path::new(command.as_std().get_program())
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Finds an executable the way Podman does: an absolute path as it is, a name in the usual
/// directories.
pub fn find(program: &str) -> Option<PathBuf> {
    let usual = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ];
    if program.starts_with('/') {
        return Path::new(program).exists().then(|| program.into());
    }
    usual
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_what_podman_needs() {
        let output = blocking("env").output().expect("env runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for line in text.lines() {
            let name = line.split('=').next().unwrap_or_default();
            assert!(name == "PATH" || KEPT.contains(&name), "{line}");
        }
        assert!(text.contains("PATH="), "{text}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed() {
        let moment = Duration::from_millis(200);
        let error = limited(new("sleep").arg("60"), moment).await.unwrap_err();
        assert!(matches!(error, CommandError::Hangs { .. }), "{error}");
    }
}
