//! Podman's own AppArmor profile, loaded before a restore needs it.
//!
//! Podman names its profile after the version of its library (`containers-default-0.62.2`) and loads
//! it when it first starts a container after boot, but not when it restores one
//! (`CheckProfileAndLoadDefault`, which only `generateSpec` calls in libpod's
//! container_internal_common.go): CRIU then asks the kernel for a profile that is not there. So Podman
//! is made to load it before: it generates any profile whose name begins like that from its own
//! template, under the name that it is asked for. A container of another version so gets the
//! content of the destination's default, under the name that its configuration has; the same as after
//! an upgrade of Podman, and `podman exec` and later starts find that name.

use std::io;

use crate::command::{self, CommandError};
use crate::container::apparmor::{LOADED, loaded};
use crate::container::podman::{self, objects};

/// Podman's profile could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The kernel does not say which there are.
    #[error("{LOADED}: {0}")]
    Unknown(#[from] io::Error),
    /// Podman ran and it is not there.
    #[error("podman did not load the AppArmor profile {profile}: {why}")]
    NotLoaded {
        /// Its name.
        profile: String,
        /// What Podman said.
        why: CommandError,
    },
    /// Podman did not even try.
    #[error("cannot have podman load the AppArmor profile {profile}: {why}")]
    Podman {
        /// Its name.
        profile: String,
        /// What Podman said.
        why: CommandError,
    },
}

/// Has Podman load its own `profile`, by a container `name` of `image` that is created and never
/// started.
///
/// The container is removed again; cut short, it is undone by [`objects::remove_container`]. The
/// profile stays loaded until the host goes down, as those that Podman loads by itself.
///
/// # Errors
/// If the profile is not loaded afterwards.
pub async fn load(profile: &str, image: &str, name: &str) -> Result<(), ProfileError> {
    let failed = |why| ProfileError::Podman {
        profile: profile.to_owned(),
        why,
    };
    let mut create = podman::podman();
    // As little of a container as there can be: its program is never run.
    create.args(["container", "create", "--pull=never", "--network=none"]);
    create.args(["--log-driver=none", "--image-volume=ignore"]);
    create.args(["--no-healthcheck", "--restart=no", "--name", name]);
    create.args(["--entrypoint", "/bin/true"]);
    create.arg(format!("--security-opt=apparmor={profile}"));
    command::stdout(create.arg(image)).await.map_err(failed)?;
    // It fails if the image has no such program, but only after the profile was loaded.
    let prepared = command::stdout(podman::podman().args(["container", "init", name])).await;
    objects::remove_container(name).await.map_err(failed)?;
    match (loaded()?.contains(profile), prepared) {
        (true, _) => Ok(()),
        (false, Err(why)) => Err(ProfileError::NotLoaded {
            profile: profile.to_owned(),
            why,
        }),
        (false, Ok(_)) => Err(ProfileError::Unknown(io::Error::other(format!(
            "{profile} is not there although podman has started a container with it"
        )))),
    }
}
