//! The OCI `config.json` that Podman generates for a container
//! (<https://github.com/opencontainers/runtime-spec/blob/main/config.md>), as far as it is read here.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Its name in a container's bundle directory.
const NAME: &str = "config.json";

/// A container's OCI configuration.
#[derive(Debug, Deserialize)]
pub struct Spec {
    root: Root,
    #[serde(default)]
    mounts: Vec<Mount>,
    #[serde(default)]
    linux: Linux,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Mount {
    destination: String,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    source: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
    #[serde(default)]
    sysctl: Option<BTreeMap<String, String>>,
    #[serde(default)]
    devices: Option<Vec<Device>>,
}

#[derive(Debug, Deserialize)]
struct Device {
    path: String,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    r#type: String,
    path: Option<PathBuf>,
}

impl Spec {
    /// Reads the configuration in a container's bundle directory. A container that does not run has none.
    pub fn read(bundle: &Path) -> io::Result<Self> {
        let path = bundle.join(NAME);
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(named)?;
        serde_json::from_str(&text).map_err(|error| named(error.into()))
    }

    /// The merged root file system.
    pub fn rootfs(&self) -> &Path {
        &self.root.path
    }

    /// What of the host is bound to this path in the container, if anything.
    pub fn bound_at(&self, destination: &str) -> Option<&Path> {
        let mut binds = self.mounts.iter().filter(|mount| mount.r#type == "bind");
        let found = binds.rfind(|mount| mount.destination == destination)?;
        Some(&found.source)
    }

    /// The rests of the paths below this one to which something of the host is bound.
    pub fn bound_below(&self, destination: &str) -> Vec<&Path> {
        let binds = self.mounts.iter().filter(|mount| mount.r#type == "bind");
        let below = binds.filter_map(|mount| {
            let rest = Path::new(&mount.destination)
                .strip_prefix(destination)
                .ok()?;
            (rest != Path::new("")).then_some(rest)
        });
        below.collect()
    }

    /// Path of the network namespace, unless the container has the host's.
    pub fn netns(&self) -> Option<&Path> {
        self.namespace("network")?.path.as_deref()
    }

    /// Whether it has users of its own (`--userns`, `--uidmap`).
    pub fn user_namespace(&self) -> bool {
        self.namespace("user").is_some()
    }

    /// The kinds of namespaces, named as in the configuration, of which it has the host's: `ipc`
    /// (`--ipc=host`) and so on.
    pub fn host_namespaces(&self) -> Vec<String> {
        let kinds = ["ipc", "pid", "uts", "cgroup"];
        let missing = kinds.iter().filter(|kind| self.namespace(kind).is_none());
        missing.map(|kind| (*kind).to_owned()).collect()
    }

    /// Kernel parameters (`--sysctl`) that the runtime has set in its namespaces, and their values.
    pub fn sysctls(&self) -> BTreeMap<String, String> {
        self.linux.sysctl.clone().unwrap_or_default()
    }

    /// Paths in the container of the host's devices that it has.
    pub fn devices(&self) -> Vec<String> {
        let devices = self.linux.devices.iter().flatten();
        devices.map(|device| device.path.clone()).collect()
    }

    fn namespace(&self, kind: &str) -> Option<&Namespace> {
        let mut namespaces = self.linux.namespaces.iter();
        namespaces.find(|namespace| namespace.r#type == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_come_from_the_spec() {
        let spec: Spec = serde_json::from_str(
            r#"{"root":{"path":"/m"},
                "mounts":[{"destination":"/proc","type":"proc","source":"proc"},
                          {"destination":"/dev/shm","type":"bind","source":"/s/shm"},
                          {"destination":"/data","type":"bind","source":"/v/data"}],
                "linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/x"}]}}"#,
        )
        .unwrap();
        assert_eq!(spec.rootfs(), Path::new("/m"));
        assert_eq!(spec.netns(), Some(Path::new("/run/netns/x")));
        assert_eq!(spec.bound_at("/dev/shm"), Some(Path::new("/s/shm")));
        assert_eq!(spec.bound_at("/data"), Some(Path::new("/v/data")));
        assert_eq!(spec.bound_at("/proc"), None);
        assert!(!spec.user_namespace());
        let spec: Spec = serde_json::from_str(
            r#"{"root":{"path":"/m"},"linux":{"namespaces":[{"type":"user"}]}}"#,
        )
        .unwrap();
        assert!(spec.user_namespace());
        assert_eq!(spec.netns(), None);
        assert_eq!(spec.host_namespaces(), ["ipc", "pid", "uts", "cgroup"]);
        assert!(spec.sysctls().is_empty() && spec.devices().is_empty());
        let spec: Spec = serde_json::from_str(
            r#"{"root":{"path":"/m"},"linux":{"namespaces":[{"type":"ipc"},{"type":"uts"}],
                "sysctl":{"net.core.somaxconn":"9"},"devices":[{"path":"/dev/fuse","type":"c"}]}}"#,
        )
        .unwrap();
        assert_eq!(spec.host_namespaces(), ["pid", "cgroup"]);
        assert_eq!(spec.sysctls()["net.core.somaxconn"], "9");
        assert_eq!(spec.devices(), ["/dev/fuse"]);
    }

    #[test]
    fn an_error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Spec::read(dir.path()).unwrap_err();
        assert!(missing.to_string().contains(NAME), "{missing}");
        std::fs::write(dir.path().join(NAME), "no JSON").unwrap();
        let malformed = Spec::read(dir.path()).unwrap_err();
        assert!(malformed.to_string().contains(NAME), "{malformed}");
    }
}
