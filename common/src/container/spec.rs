//! Where a container's pieces are, read from the OCI `config.json` that Podman generates for it
//! (<https://github.com/opencontainers/runtime-spec/blob/main/config.md>).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Podman's name, in a container's bundle directory, of the file that its output goes to unless
/// another was asked for (`--log-opt path=`).
pub const LOG_NAME: &str = "ctr.log";

/// Paths on the host, taken from a container's OCI configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The merged root file system.
    pub rootfs: PathBuf,
    /// Path of the network namespace, unless the container has the host's.
    pub netns: Option<PathBuf>,
    /// Whether it has users of its own (`--userns`, `--uidmap`).
    pub user_namespace: bool,
    /// Directory bound to /dev/shm: Podman's own, so not in CRIU's images.
    pub shm: Option<PathBuf>,
    /// Source of every bind mount by its path in the container.
    pub binds: BTreeMap<String, PathBuf>,
}

#[derive(Deserialize)]
struct Spec {
    root: Root,
    #[serde(default)]
    mounts: Vec<Mount>,
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Root {
    path: PathBuf,
}

#[derive(Deserialize)]
struct Mount {
    destination: String,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    source: PathBuf,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    r#type: String,
    path: Option<PathBuf>,
}

impl Layout {
    /// Reads `config.json` at `path`.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Self::parse(&text).map_err(|e| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {e}", path.display()),
            )
        })
    }

    pub(crate) fn parse(text: &str) -> serde_json::Result<Self> {
        let spec: Spec = serde_json::from_str(text)?;
        let binds: BTreeMap<String, PathBuf> = spec
            .mounts
            .into_iter()
            .filter(|m| m.r#type == "bind")
            .map(|m| (m.destination, m.source))
            .collect();
        let namespaces = spec.linux.map(|linux| linux.namespaces);
        let namespaces = namespaces.unwrap_or_default();
        Ok(Layout {
            rootfs: spec.root.path,
            user_namespace: namespaces.iter().any(|n| n.r#type == "user"),
            netns: namespaces
                .into_iter()
                .find(|n| n.r#type == "network")
                .and_then(|n| n.path),
            shm: binds.get("/dev/shm").cloned(),
            binds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_come_from_the_spec() {
        let layout = Layout::parse(
            r#"{"root":{"path":"/m"},
                "mounts":[{"destination":"/proc","type":"proc","source":"proc"},
                          {"destination":"/dev/shm","type":"bind","source":"/s/shm"},
                          {"destination":"/data","type":"bind","source":"/v/data"}],
                "linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/x"}]}}"#,
        )
        .unwrap();
        assert_eq!(layout.rootfs, Path::new("/m"));
        assert_eq!(layout.netns.as_deref(), Some(Path::new("/run/netns/x")));
        assert_eq!(layout.shm.as_deref(), Some(Path::new("/s/shm")));
        assert_eq!(layout.binds["/data"], Path::new("/v/data"));
        assert!(!layout.binds.contains_key("/proc"));
        assert!(!layout.user_namespace);
        let layout =
            Layout::parse(r#"{"root":{"path":"/m"},"linux":{"namespaces":[{"type":"user"}]}}"#);
        assert!(layout.unwrap().user_namespace);
    }
}
