//! A volume of Podman's that the destination keeps: then its directory is bound as any other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::container::names;

/// Types of file systems that are on a server (`--opt type=`).
const ON_SERVER: [&str; 6] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs"];

/// What a volume is, whatever is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Podman's name for it.
    #[serde(deserialize_with = "names::name")]
    pub name: String,
    /// Driver.
    #[serde(deserialize_with = "names::name")]
    pub driver: String,
    /// Options of the driver (`--opt`).
    pub options: BTreeMap<String, String>,
}

impl Volume {
    /// Whether it is an ordinary directory of its host.
    pub fn is_plain(&self) -> bool {
        self.driver == "local" && self.options.is_empty()
    }

    /// Whether all volumes with these options have the same content.
    pub fn is_on_server(&self) -> bool {
        let on_server = |kind: &String| ON_SERVER.contains(&kind.as_str());
        self.driver == "local" && self.options.get("type").is_some_and(on_server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_on_a_server_are_told_by_their_type() {
        let volume = |driver: &str, kind: &str| Volume {
            name: "v".into(),
            driver: driver.into(),
            options: [("type".to_owned(), kind.to_owned())].into(),
        };
        assert!(volume("local", "nfs4").is_on_server());
        assert!(!volume("local", "tmpfs").is_on_server());
        assert!(!volume("other", "nfs").is_on_server());
    }
}
