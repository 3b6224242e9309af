//! The program that `podman run --init` puts before the container's own.
//!
//! Podman binds the host's copy into the container (`addContainerInitBinary` in pkg/specgen/generate), and
//! only the OCI configuration shows that mount. The container's first process runs from that file, so CRIU
//! restores it only where the file is the same (`validate_file` in criu/files-reg.c).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::spec::Spec;

/// Where it is in the container (`ContainerInitPath` in libpod/define/container.go).
pub const DESTINATION: &str = "/run/podman-init";

/// A host's program of this kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitProgram {
    /// Where it is on the host, with no symbolic link in it.
    pub path: PathBuf,
    /// Digest of the file.
    pub blake3: [u8; 32],
}

impl InitProgram {
    /// The one of a container, if it has one. Blocks for as long as reading it takes.
    pub fn of(spec: &Spec) -> io::Result<Option<Self>> {
        let source = spec.bound_at(DESTINATION);
        source.map(Self::at).transpose()
    }

    /// The one at this path.
    pub fn at(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(&path)?)?;
        let blake3 = *hasher.finalize().as_bytes();
        Ok(InitProgram { path, blake3 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbolic_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (program, link) = (dir.path().join("catatonit"), dir.path().join("link"));
        std::fs::write(&program, b"one").unwrap();
        std::os::unix::fs::symlink("catatonit", &link).unwrap();
        let found = InitProgram::at(&link).unwrap();
        assert_eq!(found.path, program.canonicalize().unwrap());
        assert_eq!(found, InitProgram::at(&program).unwrap());
        std::fs::write(&program, b"two").unwrap();
        assert_ne!(found, InitProgram::at(&link).unwrap());
    }
}
