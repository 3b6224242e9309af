//! Running one program, within limits.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use common::command;
use common::protocol::text::shown;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

/// Most of its output that is shown. It may write more.
const MOST_SAID_BYTES: usize = 4096;

/// How a program ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself.
    Itself { status: ExitStatus, said: String },
    /// Killed: it took too long.
    TooLate { said: String },
    /// Killed: the migration was cancelled.
    Cancelled,
}

/// Runs a program, with `input` to read, in a process group of its own. If it takes too long or the migration is
/// cancelled, that group is killed. What it says, on stdout and stderr, is safe for a terminal.
///
/// # Errors
/// If it cannot be started, or not be waited for.
pub(super) async fn run(
    path: &Path,
    input: &[u8],
    environment: &[(&'static str, String)],
    limit: Duration,
    cancel: &CancellationToken,
) -> io::Result<Ended> {
    let (output, said) = pipe::pipe()?;
    let output = output.into_blocking_fd()?;
    let mut command = command::new(path);
    command
        .envs(environment.iter().map(|(name, value)| (*name, value)))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut child = command.spawn()?;
    // It has the other ends of the pipe, and the program's copies are to be the last.
    drop(command);
    let mut said = Said {
        pipe: said,
        kept: Vec::new(),
    };
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // It need not read.
            let _ = stdin.write_all(input).await;
        }
    };
    let end = tokio::select! {
        status = said.until_ended(&mut child, feed) => {
            let status = status?;
            said.take_rest();
            return Ok(Ended::Itself { status, said: said.shown() });
        }
        () = tokio::time::sleep(limit) => None,
        () = cancel.cancelled() => Some(Ended::Cancelled),
    };
    kill(&mut child).await?;
    said.take_rest();
    Ok(end.unwrap_or_else(|| Ended::TooLate { said: said.shown() }))
}

/// Kills a program that has not been waited for, and what it has started.
async fn kill(child: &mut Child) -> io::Result<()> {
    if let Some(id) = child.id() {
        match killpg(Pid::from_raw(id as i32), Signal::SIGKILL) {
            Err(error) if error != Errno::ESRCH => return Err(error.into()),
            _ => {}
        }
    }
    child.wait().await.map(drop)
}

/// What a program says.
struct Said {
    pipe: pipe::Receiver,
    kept: Vec<u8>,
}

impl Said {
    /// Listens, and does `meanwhile`, until the program has ended: what it has started may have its pipe for longer.
    async fn until_ended(
        &mut self,
        child: &mut Child,
        meanwhile: impl Future<Output = ()>,
    ) -> io::Result<ExitStatus> {
        let listen = async {
            while self.pipe.readable().await.is_ok() {
                let mut part = [0; MOST_SAID_BYTES];
                match self.pipe.try_read(&mut part) {
                    Ok(0) => break,
                    Ok(bytes) => keep(&mut self.kept, &part[..bytes]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
        };
        let beside = async {
            tokio::join!(listen, meanwhile);
            std::future::pending().await
        };
        tokio::select! {
            status = child.wait() => status,
            () = beside => unreachable!("it is pending"),
        }
    }

    /// Takes what is still in the pipe, up to what is shown: others may go on writing.
    fn take_rest(&mut self) {
        let mut part = [0; MOST_SAID_BYTES];
        while self.kept.len() < MOST_SAID_BYTES {
            match nix::unistd::read(self.pipe.as_fd(), &mut part) {
                Ok(bytes) if bytes > 0 => keep(&mut self.kept, &part[..bytes]),
                _ => break,
            }
        }
    }

    fn shown(&self) -> String {
        shown(String::from_utf8_lossy(&self.kept).trim_end())
    }
}

fn keep(kept: &mut Vec<u8>, part: &[u8]) {
    let room = MOST_SAID_BYTES - kept.len();
    kept.extend_from_slice(&part[..part.len().min(room)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(100);

    /// The shell reads the script, and does not get to what follows it.
    async fn sh(script: &str, limit: Duration, cancel: &CancellationToken) -> Ended {
        let mut input = format!("{script}\nexit 0\n").into_bytes();
        // More than a pipe takes.
        input.resize(300_000, b'x');
        let environment = [("LIVE_MIGRATION_OUTCOME", "moved".to_owned())];
        run(Path::new("/bin/sh"), &input, &environment, limit, cancel)
            .await
            .unwrap()
    }

    async fn said_by(script: &str) -> (Option<i32>, String) {
        match sh(script, LONG, &CancellationToken::new()).await {
            Ended::Itself { status, said } => (status.code(), said),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn it_says_what_it_does_without_acting_on_the_terminal() {
        let (status, said) = said_by("echo one; printf '\\033[2J' >&2; exit 3").await;
        assert_eq!((status, said.as_str()), (Some(3), "one\n\\u{1b}[2J"));
        let (status, said) = said_by("echo $LIVE_MIGRATION_OUTCOME in $PWD").await;
        assert_eq!((status, said.as_str()), (Some(0), "moved in /"));
    }

    #[tokio::test]
    async fn it_may_say_more_than_is_kept() {
        let (status, said) = said_by("yes | head -c 1000000").await;
        assert_eq!((status, said.len()), (Some(0), MOST_SAID_BYTES - 1));
    }

    #[tokio::test]
    async fn what_it_leaves_running_is_not_waited_for() {
        let (status, said) = said_by("sleep 1000 & echo $!").await;
        let left: i32 = said.parse().expect("a process id");
        nix::sys::signal::kill(Pid::from_raw(left), Signal::SIGKILL).expect("it runs");
        assert_eq!(status, Some(0));
    }

    #[tokio::test]
    async fn it_is_killed_when_it_takes_too_long() {
        let never = CancellationToken::new();
        let ended = sh("echo x; sleep 1000", Duration::from_secs(1), &never).await;
        assert!(matches!(ended, Ended::TooLate { .. }), "{ended:?}");
    }

    #[tokio::test]
    async fn it_is_killed_with_what_it_has_started_when_that_is_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let cancel = CancellationToken::new();
        let script = format!(
            "sleep 1000 & echo $! >{0}.new; mv {0}.new {0}; wait",
            file.display()
        );
        let pause = || tokio::time::sleep(Duration::from_millis(20));
        let begun = async {
            while !file.exists() {
                pause().await;
            }
            cancel.cancel();
        };
        let (ended, ()) = tokio::join!(sh(&script, LONG, &cancel), begun);
        assert!(matches!(ended, Ended::Cancelled), "{ended:?}");
        let pid = std::fs::read_to_string(&file).unwrap();
        let stat = Path::new("/proc").join(pid.trim()).join("stat");
        // Whoever adopts it may take a moment to wait for it.
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            pause().await;
        }
    }
}
