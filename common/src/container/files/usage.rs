//! How much disk a container's files take.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Most names that are looked at: more would keep the operator waiting for an estimate. What is beyond
/// them does not count.
const MOST_NAMES: usize = 500_000;

/// Size of the unit of `st_blocks` (stat(2)).
const BLOCK: u64 = 512;

/// Bytes allocated below `directory` on its file system: holes do not count, and files with several
/// names once. What cannot be read counts as nothing. Blocks; bounded by a number of names.
pub fn allocated(directory: &Path) -> u64 {
    let Ok(root) = fs::symlink_metadata(directory) else {
        return 0;
    };
    let mut bytes = root.blocks() * BLOCK;
    let mut linked = HashSet::new();
    let mut names = 0;
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            names += 1;
            if names > MOST_NAMES {
                return bytes;
            }
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.dev() != root.dev() {
                continue;
            }
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.nlink() > 1 && !linked.insert(metadata.ino()) {
                continue;
            }
            bytes += metadata.blocks() * BLOCK;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_second_names_take_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let empty = allocated(dir.path());
        fs::create_dir(dir.path().join("deep")).unwrap();
        let file = dir.path().join("deep/file");
        fs::write(&file, vec![1; 1 << 20]).unwrap();
        fs::File::open(&file).unwrap().sync_all().unwrap();
        fs::hard_link(&file, dir.path().join("again")).unwrap();
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("elsewhere")).unwrap();
        let taken = allocated(dir.path()) - empty;
        assert!((1 << 20..(1 << 20) + (1 << 17)).contains(&taken), "{taken}");
        assert_eq!(allocated(&dir.path().join("nothing")), 0);
    }
}
