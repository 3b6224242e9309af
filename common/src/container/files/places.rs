//! Where a container's pieces are.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::container::binds::{self, Bind, Kind};
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
    /// Its volumes, and directories of the host that are sent.
    pub volumes: Volumes,
    /// Files of the host that are sent, by the path they are mounted at in the container.
    pub files: BTreeMap<String, PathBuf>,
    /// The file that conmon writes the container's output to; there is none with some log drivers.
    pub log: PathBuf,
}

impl Places {
    /// Those of a container that runs or waits at the gate, with its `bundle` directory and the one that
    /// is for its `checkpoint`.
    ///
    /// # Errors
    /// If its OCI configuration cannot be read, or one of its `volumes` or of those `binds` that are sent is not
    /// mounted.
    pub fn read(
        bundle: &Path,
        checkpoint: PathBuf,
        volumes: &[VolumeFacts],
        binds: &[Bind],
    ) -> io::Result<Self> {
        let spec = Spec::read(bundle)?;
        let mounted = |at: &String| {
            let source = spec.bound_at(at).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("{at} is not mounted"))
            })?;
            Ok((at.clone(), source.to_owned()))
        };
        let (files, directories): (Vec<&Bind>, Vec<&Bind>) = binds::sent(binds)
            .into_iter()
            .partition(|bind| bind.kind == Kind::File);
        let volumes = volumes.iter().map(|volume| &volume.destination);
        let directories = directories.iter().map(|bind| &bind.destination);
        let files = files.iter().map(|bind| &bind.destination);
        Ok(Places {
            checkpoint,
            rootfs: spec.rootfs().to_owned(),
            netns: spec.netns().map(Path::to_owned),
            shm: spec.bound_at("/dev/shm").map(Path::to_owned),
            volumes: volumes
                .chain(directories)
                .map(mounted)
                .collect::<io::Result<_>>()?,
            files: files.map(mounted).collect::<io::Result<_>>()?,
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
        let sent = self.volumes.values().chain(self.files.values());
        let sent = sent.map(PathBuf::as_path);
        durable::sync_file_systems(storage.into_iter().chain(log).chain(sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::binds::Wish;

    #[test]
    fn they_come_from_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("config.json"),
            r#"{"root":{"path":"/m"},
                "mounts":[{"destination":"/dev/shm","type":"bind","source":"/s/shm"},
                          {"destination":"/data","type":"bind","source":"/v/data"},
                          {"destination":"/srv","type":"bind","source":"/srv/d"},
                          {"destination":"/f","type":"bind","source":"/srv/f"},
                          {"destination":"/etc/hosts","type":"bind","source":"/s/hosts"}],
                "linux":{"namespaces":[{"type":"network","path":"/run/netns/x"}]}}"#,
        )
        .unwrap();
        let volume = |destination: &str| VolumeFacts {
            name: "v".into(),
            destination: destination.into(),
            driver: "local".into(),
            ..VolumeFacts::default()
        };
        let expected = Places {
            checkpoint: "/images".into(),
            rootfs: "/m".into(),
            netns: Some("/run/netns/x".into()),
            shm: Some("/s/shm".into()),
            volumes: [
                ("/data".into(), "/v/data".into()),
                ("/srv".into(), "/srv/d".into()),
            ]
            .into(),
            files: [("/f".into(), "/srv/f".into())].into(),
            log: dir.path().join("ctr.log"),
        };
        let bind = |source: &str, destination: &str, kind, wish| Bind {
            source: source.into(),
            destination: destination.into(),
            kind,
            wish,
            ..Bind::default()
        };
        let send = Wish::Send { overwrite: false };
        let binds = [
            bind("/srv/d", "/srv", Kind::Directory, send.clone()),
            bind("/srv/f", "/f", Kind::File, send),
            bind("/s/hosts", "/etc/hosts", Kind::File, Wish::Keep),
        ];
        let found = Places::read(dir.path(), "/images".into(), &[volume("/data")], &binds);
        assert_eq!(found.unwrap(), expected);
        let missing = Places::read(dir.path(), "/images".into(), &[volume("/other")], &[]);
        let missing = missing.unwrap_err();
        assert_eq!(missing.to_string(), "/other is not mounted");
    }
}
