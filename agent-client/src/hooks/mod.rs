//! The operator's programs that are run before a migration and after it. docs/hooks.md is for those who write them.

mod program;
mod trusted;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::container::ContainerFacts;
use common::preflight::Check;
use common::protocol::ContainerRef;
use common::report::Report;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::program::Ended;

/// How long each may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Of what [`Plan`] is printed as; raised by a change that a reader cannot ignore.
const PLAN_VERSION: u32 = 1;

/// What is about to happen: what hooks read before it does. Documented in docs/hooks.md.
#[derive(Debug, Serialize)]
pub(crate) struct Plan<'a> {
    version: u32,
    container: ContainerRef,
    image: &'a str,
    source: &'a str,
    destination: &'a str,
    memory_bytes: u64,
    estimated_freeze_ms: u64,
    forward_new: bool,
    ports: Vec<String>,
    volumes: Vec<&'a str>,
    checks: &'a [Check],
}

impl<'a> Plan<'a> {
    /// The plan for a container that is as `facts` say and has passed these checks. The report has just begun.
    pub(crate) fn new(
        facts: &'a ContainerFacts,
        checks: &'a [Check],
        report: &'a Report,
        forward_new: bool,
    ) -> Self {
        Plan {
            version: PLAN_VERSION,
            container: facts.reference(),
            image: &facts.image_name,
            source: &report.source,
            destination: &report.destination,
            memory_bytes: facts.memory_bytes,
            estimated_freeze_ms: report.estimated_freeze_ms,
            forward_new,
            ports: facts.ports.iter().map(ToString::to_string).collect(),
            volumes: facts.volumes.iter().map(|v| v.name.as_str()).collect(),
            checks,
        }
    }
}

/// When hooks are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Before anything is touched.
    Before,
    /// After the outcome.
    After,
}

impl When {
    fn name(self) -> &'static str {
        match self {
            When::Before => "before",
            When::After => "after",
        }
    }

    fn directory(self) -> PathBuf {
        let directory = format!("{}.d", self.name());
        Path::new("/etc/live-migration/hooks").join(directory)
    }
}

/// Why a hook has not done what it is for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// There may be hooks that cannot be found.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than root could have put something else there.
    #[error("{} is not run: {why}", path.display())]
    NotTrusted {
        /// The hook, or the directory.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// It is no program.
    #[error("the hook {} cannot be run: {source}", path.display())]
    NotStarted {
        /// The hook.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has said no.
    #[error("the hook {} ended with {status}{}", path.display(), with_colon(said))]
    Failed {
        /// The hook.
        path: PathBuf,
        /// How it ended.
        status: String,
        /// What it said.
        said: String,
    },
    /// It has been killed.
    #[error("the hook {} was killed, because it took longer than {} s{}", path.display(), limit.as_secs(), with_colon(said))]
    TookTooLong {
        /// The hook.
        path: PathBuf,
        /// How long it may take.
        limit: Duration,
        /// What it said.
        said: String,
    },
    /// The migration was cancelled meanwhile.
    #[error("cancelled")]
    Cancelled,
}

fn with_colon(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!(": {said}"),
    }
}

/// Runs the hooks that come before a migration, in the order of their names, up to the first that fails.
///
/// # Errors
/// Those of that one, or if it is not certain who has written one of them: none is run then.
pub(crate) async fn before(plan: &Plan<'_>, cancel: &CancellationToken) -> Result<(), HookError> {
    let hooks = Hooks {
        when: When::Before,
        input: json(plan),
        environment: about(&plan.container, plan.destination),
        cancel: cancel.clone(),
    };
    for path in trusted::in_directory(&When::Before.directory())? {
        hooks.run(path).await?;
    }
    Ok(())
}

/// Runs the hooks that come after a migration, all of them, and returns what went wrong.
pub(crate) async fn after(report: &Report) -> Vec<HookError> {
    let Some(container) = &report.container else {
        return Vec::new();
    };
    let paths = match trusted::in_directory(&When::After.directory()) {
        Ok(paths) => paths,
        Err(error) => return vec![error],
    };
    let mut environment = about(container, &report.destination);
    environment.extend([
        (
            "LIVE_MIGRATION_OUTCOME",
            <&str>::from(report.outcome).to_owned(),
        ),
        ("LIVE_MIGRATION_FREEZE_MS", report.freeze_ms.to_string()),
        (
            "LIVE_MIGRATION_ID",
            report
                .migration_id
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
    ]);
    let hooks = Hooks {
        when: When::After,
        input: json(report),
        environment,
        // What is over cannot be cancelled.
        cancel: CancellationToken::new(),
    };
    let mut errors = Vec::new();
    for path in paths {
        errors.extend(hooks.run(path).await.err());
    }
    errors
}

fn json(what: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(what).expect("it has no keys but texts")
}

fn about(container: &ContainerRef, destination: &str) -> Vec<(&'static str, String)> {
    vec![
        ("LIVE_MIGRATION_CONTAINER", container.name.clone()),
        ("LIVE_MIGRATION_CONTAINER_ID", container.id.clone()),
        ("LIVE_MIGRATION_DESTINATION", destination.to_owned()),
    ]
}

/// The hooks of one time.
struct Hooks {
    when: When,
    /// What they read.
    input: Vec<u8>,
    environment: Vec<(&'static str, String)>,
    /// Ends the one that runs.
    cancel: CancellationToken,
}

impl Hooks {
    async fn run(&self, path: PathBuf) -> Result<(), HookError> {
        let mut environment = vec![("LIVE_MIGRATION_WHEN", self.when.name().to_owned())];
        environment.extend_from_slice(&self.environment);
        tracing::info!("running the hook {}", path.display());
        let ended = program::run(&path, &self.input, &environment, LIMIT, &self.cancel).await;
        match ended {
            Ok(Ended::Itself { status, said }) if status.success() => {
                if !said.is_empty() {
                    tracing::info!("{}: {said}", path.display());
                }
                Ok(())
            }
            Ok(Ended::Itself { status, said }) => Err(HookError::Failed {
                path,
                status: status.to_string(),
                said,
            }),
            Ok(Ended::TooLate { said }) => Err(HookError::TookTooLong {
                path,
                limit: LIMIT,
                said,
            }),
            Ok(Ended::Cancelled) => Err(HookError::Cancelled),
            Err(source) => Err(HookError::NotStarted { path, source }),
        }
    }
}
