//! Podman's secrets (`--secret`): whether another host has the same.
//!
//! Podman takes them from its own host when a container comes, so they do not travel. Only digests of
//! them do, and each container's are different.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::podman::secrets::contents;
use super::spec::Spec;
use crate::command::CommandError;

/// Directory in Podman's directory of a container that holds those secrets that are files in it.
const DIRECTORY: &str = "secrets";

/// Where they are in a container, unless they have another target.
const MOUNTED: &str = "/run/secrets";

/// A secret of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFacts {
    /// Podman's name.
    #[serde(deserialize_with = "super::names::name")]
    pub name: String,
    /// Digest of its content, for this container alone.
    pub blake3: [u8; 32],
}

/// Those of these `names` of which the container has a copy in its `bundle`, or this host has the content.
pub async fn of_container(
    id: &str,
    bundle: &Path,
    names: &[String],
) -> Result<Vec<SecretFacts>, CommandError> {
    let mut found = BTreeMap::new();
    for name in names {
        if let Ok(content) = std::fs::read(bundle.join(DIRECTORY).join(name)) {
            found.insert(name.clone(), content);
        }
    }
    // The others are variables of its environment.
    let others = names.iter().filter(|name| !found.contains_key(*name));
    let others: Vec<&str> = others.map(String::as_str).collect();
    found.extend(contents(&others).await?);
    Ok(digests(id, found))
}

/// Makes the files to which the secrets of a container that is to be restored from `bundle` are bound. They
/// are in a directory of Podman's that is itself bound into the container; the runtime makes them when it
/// starts a container, and not when it restores one. They go with the container.
pub fn make_mount_points(bundle: &Path) -> std::io::Result<()> {
    let spec = Spec::read(bundle)?;
    let Some(directory) = spec.bound_at(MOUNTED) else {
        return Ok(());
    };
    for name in spec.bound_below(MOUNTED) {
        // Podman names them after secrets or their targets, which are no paths.
        if name.components().count() == 1 {
            let path = directory.join(name);
            OpenOptions::new().append(true).create(true).open(path)?;
        }
    }
    Ok(())
}

/// Those of these secrets, of the container `id`, that this host has under the same names.
pub async fn here(id: &str, wanted: &[SecretFacts]) -> Result<Vec<SecretFacts>, CommandError> {
    let names: Vec<&str> = wanted.iter().map(|secret| secret.name.as_str()).collect();
    Ok(digests(id, contents(&names).await?))
}

fn digests(id: &str, contents: BTreeMap<String, Vec<u8>>) -> Vec<SecretFacts> {
    let key = blake3::derive_key("live-migration: a container's secret", id.as_bytes());
    let facts = |(name, content): (String, Vec<u8>)| SecretFacts {
        name,
        blake3: *blake3::keyed_hash(&key, &content).as_bytes(),
    };
    contents.into_iter().map(facts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_secret_gets_a_file_to_be_bound_to() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("run");
        std::fs::create_dir(&directory).unwrap();
        let bind = |destination: &str, source: &Path| serde_json::json!({"type": "bind", "destination": destination, "source": source});
        let spec = serde_json::json!({"root": {"path": "/m"}, "mounts": [
            bind("/run/secrets", &directory),
            bind("/run/secrets/s", Path::new("/there/s")),
            bind("/elsewhere", Path::new("/there/t")),
        ]});
        std::fs::write(dir.path().join("config.json"), spec.to_string()).unwrap();
        make_mount_points(dir.path()).unwrap();
        make_mount_points(dir.path()).unwrap();
        let made: Vec<_> = std::fs::read_dir(&directory).unwrap().flatten().collect();
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].file_name(), "s");
    }

    #[tokio::test]
    async fn a_digest_depends_on_content_and_container() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = dir.path().join(DIRECTORY);
        std::fs::create_dir(&secrets).unwrap();
        std::fs::write(secrets.join("s"), b"one").unwrap();
        let names = ["s".to_owned()];
        let first = of_container("a", dir.path(), &names).await.unwrap();
        assert_eq!(first.len(), 1);
        let again = of_container("a", dir.path(), &names).await.unwrap();
        assert_eq!(first, again);
        assert_ne!(first, of_container("b", dir.path(), &names).await.unwrap());
        std::fs::write(secrets.join("s"), b"two").unwrap();
        assert_ne!(first, of_container("a", dir.path(), &names).await.unwrap());
    }
}
