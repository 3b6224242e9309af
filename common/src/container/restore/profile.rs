//! Podman's own AppArmor profile, loaded before a restore needs it.
//!
//! Podman names its profile after the version of its library (`containers-default-0.62.2`) and loads
//! it when it first starts a container after boot, but not when it restores one
//! (`CheckProfileAndLoadDefault`, which only `generateSpec` calls in libpod's
//! container_internal_common.go): CRIU then asks the kernel for a profile that is not there. So we
//! have Podman load it first: from its own template, Podman generates any profile with that prefix,
//! under the name it is asked for. A container from another version of Podman thus gets the content of
//! the destination's default under the name in its own configuration, the same as after an upgrade of
//! Podman, and `podman exec` and later starts find that name.

use std::io;

use crate::command::{self, CommandError};
use crate::container::apparmor::{LOADED, loaded};
use crate::container::podman::{self, objects};

/// Podman's profile could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The kernel does not say which profiles are loaded.
    #[error("{LOADED}: {0}")]
    Unknown(#[from] io::Error),
    /// Podman ran, but the profile is still not loaded.
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

/// Has Podman load its own `profile`, by creating a container `name` of `image` that is never
/// started.
///
/// The container is removed again; if interrupted, it is undone by [`objects::remove_container`].
/// The profile stays loaded until the host shuts down, like those that Podman loads on its own.
///
/// # Errors
/// If the profile is not loaded afterwards.
pub async fn load(profile: &str, image: &str, name: &str) -> Result<(), ProfileError> {
    let failed = |why| ProfileError::Podman {
        profile: profile.to_owned(),
        why,
    };
    let mut create = podman::podman();
    // As minimal a container as possible: its program is never run.
    create.args(["container", "create", "--pull=never", "--network=none"]);
    create.args(["--log-driver=none", "--image-volume=ignore"]);
    create.args(["--no-healthcheck", "--restart=no", "--name", name]);
    create.args(["--entrypoint", "/bin/true"]);
    create.arg(format!("--security-opt=apparmor={profile}"));
    command::stdout(create.arg(image)).await.map_err(failed)?;
    // Fails if the image has no such program, but only after the profile was loaded.
    let prepared = command::stdout(podman::podman().args(["container", "init", name])).await;
    objects::remove_container(name).await.map_err(failed)?;
    match (loaded()?.contains(profile), prepared) {
        (true, _) => Ok(()),
        (false, Err(why)) => Err(ProfileError::NotLoaded {
            profile: profile.to_owned(),
            why,
        }),
        (false, Ok(_)) => Err(ProfileError::Unknown(io::Error::other(format!(
            "{profile} is not loaded although podman has prepared a container with it"
        )))),
    }
}
