//! Where a container's pieces are.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::container::facts::VolumeFacts;
use crate::container::spec::Spec;
use crate::durable;

/// Podman's name, in a container's bundle directory, of the file that its output goes to unless
/// another was asked for (`--log-opt path=`).
pub const LOG_NAME: &str = "ctr.log";

/// Volumes' directories, by the path they are mounted at in the container.
pub type Volumes = BTreeMap<String, PathBuf>;

/// Where a container's pieces are on one host. The same kinds on both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// CRIU's images.
    pub checkpoint: PathBuf,
    /// The merged root file system.
    pub rootfs: PathBuf,
    /// Path of the network namespace, unless the container has the host's.
    pub netns: Option<PathBuf>,
    /// The directory bound to /dev/shm: Podman's own, so not in CRIU's images.
    pub shm: Option<PathBuf>,
    /// Its volumes.
    pub volumes: Volumes,
    /// The file that conmon writes the container's output to; there is none with some log drivers.
    pub log: PathBuf,
}

impl Places {
    /// Those of a container that runs or waits at the gate, with its `bundle` directory and the one that
    /// is for its `checkpoint`.
    ///
    /// # Errors
    /// If its OCI configuration cannot be read, or one of its `volumes` is not mounted.
    pub fn read(bundle: &Path, checkpoint: PathBuf, volumes: &[VolumeFacts]) -> io::Result<Self> {
        let spec = Spec::read(bundle)?;
        let volume = |volume: &VolumeFacts| {
            let at = &volume.destination;
            let directory = spec.bound_at(at).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("{at} is not mounted"))
            })?;
            Ok((at.clone(), directory.to_owned()))
        };
        Ok(Places {
            checkpoint,
            rootfs: spec.rootfs().to_owned(),
            netns: spec.netns().map(Path::to_owned),
            shm: spec.bound_at("/dev/shm").map(Path::to_owned),
            volumes: volumes.iter().map(volume).collect::<io::Result<_>>()?,
            log: bundle.join(LOG_NAME),
        })
    }

    /// Has the container's files put on disk: all that was written to their file systems. Blocks.
    ///
    /// # Errors
    /// Those of [`durable::sync_file_systems`].
    pub fn sync(&self) -> io::Result<()> {
        // The upper directory is where Podman's storage has the mount point, too.
        let storage = self.rootfs.parent();
        let log = self.log.parent();
        let volumes = self.volumes.values().map(PathBuf::as_path);
        durable::sync_file_systems(storage.into_iter().chain(log).chain(volumes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_from_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("config.json"),
            r#"{"root":{"path":"/m"},
                "mounts":[{"destination":"/dev/shm","type":"bind","source":"/s/shm"},
                          {"destination":"/data","type":"bind","source":"/v/data"},
                          {"destination":"/etc/hosts","type":"bind","source":"/s/hosts"}],
                "linux":{"namespaces":[{"type":"network","path":"/run/netns/x"}]}}"#,
        )
        .unwrap();
        let volume = |destination: &str| VolumeFacts {
            name: "v".into(),
            destination: destination.into(),
            driver: "local".into(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            anonymous: false,
            shared_with: Vec::new(),
        };
        let expected = Places {
            checkpoint: "/images".into(),
            rootfs: "/m".into(),
            netns: Some("/run/netns/x".into()),
            shm: Some("/s/shm".into()),
            volumes: [("/data".into(), "/v/data".into())].into(),
            log: dir.path().join("ctr.log"),
        };
        let found = Places::read(dir.path(), "/images".into(), &[volume("/data")]);
        assert_eq!(found.unwrap(), expected);
        let missing = Places::read(dir.path(), "/images".into(), &[volume("/other")]);
        let missing = missing.unwrap_err();
        assert_eq!(missing.to_string(), "/other is not mounted");
    }
}
