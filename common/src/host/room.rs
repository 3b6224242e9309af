//! Free space on a file system.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The free space for files written below a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// The directory; it may not exist yet.
    pub path: String,
    /// Device number of the file system, to tell whether two directories share the space.
    pub device: u64,
    /// Free bytes; the highest number if the file system has no size.
    pub free_bytes: u64,
}

impl Room {
    /// The space below `directory` or, if it does not exist yet, where it would be created. Empty
    /// if that cannot be found out.
    pub fn at(directory: &Path) -> Self {
        let found = directory.ancestors().find_map(|existing| {
            let device = std::fs::metadata(existing).ok()?.dev();
            let free = nix::sys::statvfs::statvfs(existing).ok()?;
            // A file system without a size, such as ramfs, has no limit of its own.
            let free_bytes = match free.blocks() {
                0 => u64::MAX,
                _ => free.blocks_available() * free.fragment_size(),
            };
            Some((device, free_bytes))
        });
        let (device, free_bytes) = found.unwrap_or_default();
        Room {
            path: directory.display().to_string(),
            device,
            free_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_yet_has_the_room_of_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let (here, below) = (Room::at(dir.path()), Room::at(&dir.path().join("a/b")));
        assert_eq!(here.device, below.device);
        assert!(below.free_bytes > 0);
    }
}
