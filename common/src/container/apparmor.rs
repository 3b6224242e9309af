//! What confines a container's processes.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::command;

/// Prefix of the names of Podman's own profiles (`ProfilePrefix` in go.podman.io/common/pkg/apparmor).
pub const PODMANS: &str = "containers-default-";

/// Lists the loaded profiles, one per line, each with its mode.
pub(crate) const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// The program that loads profiles. Podman looks for it here, besides its search path.
const PARSER: &str = "apparmor_parser";

/// A security module of the kernel that labels processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
pub enum SecurityModule {
    /// None that CRIU knows of.
    #[default]
    #[strum(to_string = "no security module")]
    None,
    /// Labels are names of profiles.
    #[strum(to_string = "AppArmor")]
    Apparmor,
    /// Labels are contexts, which every process has.
    #[strum(to_string = "SELinux")]
    Selinux,
}

impl SecurityModule {
    /// The security module of this host.
    pub fn of_host() -> Self {
        Self::below(Path::new("/sys"))
    }

    /// In the order in which CRIU looks for them (`kerndat_lsm` in its lsm.c).
    fn below(sys: &Path) -> Self {
        if sys.join("kernel/security/apparmor").exists() {
            SecurityModule::Apparmor
        } else if sys.join("fs/selinux/enforce").exists() {
            SecurityModule::Selinux
        } else {
            SecurityModule::None
        }
    }
}

/// The label of the process with this directory below /proc; `None` if nothing confines it.
///
/// AppArmor's own file comes first: where several modules are stacked, the other file belongs to
/// the first of them (Documentation/admin-guide/LSM/index.rst).
pub fn label(process: &Path) -> Option<String> {
    ["attr/apparmor/current", "attr/current"]
        .iter()
        .find_map(|file| std::fs::read_to_string(process.join(file)).ok())
        .and_then(|text| parse_label(&text))
}

/// AppArmor prints `profile (enforce)`, SELinux just the context.
pub(crate) fn parse_label(text: &str) -> Option<String> {
    let text = text.trim_end_matches(['\0', '\n']).trim();
    let name = match text.rsplit_once(" (") {
        Some((name, mode)) if mode.ends_with(')') => name,
        _ => text,
    };
    (!name.is_empty() && name != "unconfined").then(|| name.to_owned())
}

/// Names of the profiles loaded on this host; empty without AppArmor.
pub fn loaded() -> io::Result<BTreeSet<String>> {
    match std::fs::read_to_string(LOADED) {
        Ok(text) => Ok(text.lines().filter_map(parse_label).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Whether Podman can load its profiles on this host.
pub fn has_parser() -> bool {
    command::find(PARSER).is_some()
}

/// Those of a container's `labels` that Podman has to load before it restores the container, given
/// the `loaded` ones.
pub fn to_load(labels: &BTreeSet<String>, loaded: &BTreeSet<String>) -> Vec<String> {
    let missing = labels.difference(loaded);
    missing
        .filter(|label| label.starts_with(PODMANS))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_label_is_a_profile_or_a_context() {
        for (text, expected) in [
            (
                "containers-default-0.62.2 (enforce)\n",
                Some("containers-default-0.62.2"),
            ),
            ("a profile//&other (complain)\n", Some("a profile//&other")),
            ("unconfined\n", None),
            ("", None),
            (
                "system_u:system_r:container_t:s0:c1,c2\0",
                Some("system_u:system_r:container_t:s0:c1,c2"),
            ),
        ] {
            assert_eq!(parse_label(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn the_label_is_that_of_apparmor_where_it_has_a_file_of_its_own() {
        let process = tempfile::tempdir().unwrap();
        assert_eq!(label(process.path()), None);
        std::fs::create_dir_all(process.path().join("attr/apparmor")).unwrap();
        std::fs::write(process.path().join("attr/current"), "other\n").unwrap();
        assert_eq!(label(process.path()).as_deref(), Some("other"));
        let own = process.path().join("attr/apparmor/current");
        std::fs::write(own, "mine (enforce)\n").unwrap();
        assert_eq!(label(process.path()).as_deref(), Some("mine"));
    }

    #[test]
    fn a_host_has_the_module_that_shows_itself() {
        let sys = tempfile::tempdir().unwrap();
        let below = || SecurityModule::below(sys.path());
        assert_eq!(below(), SecurityModule::None);
        std::fs::create_dir_all(sys.path().join("fs/selinux")).unwrap();
        std::fs::write(sys.path().join("fs/selinux/enforce"), "1").unwrap();
        assert_eq!(below(), SecurityModule::Selinux);
        std::fs::create_dir_all(sys.path().join("kernel/security/apparmor")).unwrap();
        assert_eq!(below(), SecurityModule::Apparmor);
    }

    #[test]
    fn only_podmans_own_profiles_are_loaded_by_podman() {
        let labels = set(&[
            "containers-default-0.62.2",
            "mine",
            "containers-default-0.64.1",
        ]);
        let there = set(&["containers-default-0.64.1"]);
        assert_eq!(to_load(&labels, &there), ["containers-default-0.62.2"]);
    }
}
