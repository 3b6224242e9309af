//! Why a migration did not happen.

use common::container::podman::list::PodmanError;

/// Why a migration did not happen.
#[derive(Debug)]
pub(super) enum Failure {
    /// A check failed; nothing was changed.
    Refused(String),
    /// A step failed, or the user cancelled.
    Failed(anyhow::Error),
    /// It is not known whether the destination has committed.
    Unknown(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Failed(error.into())
    }
}

/// Whether the container that was asked for does not exist: a mistake in the command line.
pub(crate) fn is_usage_error(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(PodmanError::NoSuchContainer(_) | PodmanError::Ambiguous { .. })
    )
}
