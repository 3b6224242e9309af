//! Names of migrations and containers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Names one migration on both hosts: 64 random bits, written as 16 hex digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MigrationId(String);

impl MigrationId {
    /// A new random id.
    pub fn random() -> Self {
        MigrationId(format!("{:016x}", rand::random::<u64>()))
    }

    /// The id as text; safe as a file name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MigrationId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The id becomes part of file names on both hosts, so only hex digits may pass.
        if text.len() == 16
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            Ok(MigrationId(text.to_owned()))
        } else {
            Err(format!(
                "`{text}` is not a migration id (16 lower-case hex digits)"
            ))
        }
    }
}

impl TryFrom<String> for MigrationId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MigrationId> for String {
    fn from(id: MigrationId) -> String {
        id.0
    }
}

/// A container by full id and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRef {
    /// Podman's full container id.
    pub id: String,
    /// Podman's container name.
    pub name: String,
}
