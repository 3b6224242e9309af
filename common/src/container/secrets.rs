//! Podman's secrets (`--secret`): whether another host has the same.
//!
//! Podman takes them from its own host when a container comes, so they do not travel. Only digests of
//! them do, and each container's are different.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::podman::secrets::contents;
use crate::command::CommandError;

/// Directory in Podman's directory of a container that holds those secrets that are files in it.
const DIRECTORY: &str = "secrets";

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
