//! Whether two hosts have the same at a path.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// More than this is not compared: the operator waits for it.
const MOST_BYTES: u64 = 1 << 30;
const MOST_NAMES: usize = 100_000;

/// Digest of what is at `path`, with all that is below it: names, kinds, owners, permissions, contents,
/// targets of links; not times. Nothing if it is more than can be compared while somebody waits (1 GiB,
/// 100,000 names), or if there is anything in it that has no content, such as a socket. Blocks.
///
/// # Errors
/// Those of the file system.
pub(super) fn digest(path: &Path) -> io::Result<Option<[u8; 32]>> {
    let mut walk = Walk {
        hasher: blake3::Hasher::new(),
        bytes: 0,
        names: 0,
    };
    let device = fs::symlink_metadata(path)?.dev();
    Ok(match walk.visit(path, device)? {
        true => Some(*walk.hasher.finalize().as_bytes()),
        false => None,
    })
}

struct Walk {
    hasher: blake3::Hasher,
    bytes: u64,
    names: usize,
}

impl Walk {
    /// Says whether it can be compared. Does not follow links. Does not recurse: a tree may be deep.
    fn visit(&mut self, root: &Path, device: u64) -> io::Result<bool> {
        let mut ahead = vec![root.to_owned()];
        while let Some(path) = ahead.pop() {
            let metadata = fs::symlink_metadata(&path)?;
            let name = path.strip_prefix(root).unwrap_or(&path);
            self.names += 1;
            self.bytes += metadata.len();
            let known = metadata.is_dir() || metadata.is_file() || metadata.is_symlink();
            let too_much = self.names > MOST_NAMES || self.bytes > MOST_BYTES;
            if !known || too_much || metadata.dev() != device {
                return Ok(false);
            }
            self.add(name.as_os_str().as_bytes());
            for number in [metadata.mode(), metadata.uid(), metadata.gid()] {
                self.hasher.update(&number.to_le_bytes());
            }
            if metadata.is_symlink() {
                self.add(fs::read_link(&path)?.as_os_str().as_bytes());
            } else if metadata.is_file() {
                self.hasher.update(&metadata.len().to_le_bytes());
                self.hasher.update_reader(File::open(&path)?)?;
            } else {
                let names = fs::read_dir(&path)?.map(|entry| Ok(entry?.path()));
                let mut names = names.collect::<io::Result<Vec<_>>>()?;
                names.sort();
                ahead.extend(names.into_iter().rev());
            }
        }
        Ok(true)
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn any_difference_is_seen_but_times_and_places() {
        let tree = || {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("root");
            fs::create_dir_all(root.join("deep/er")).unwrap();
            fs::write(root.join("deep/file"), "content").unwrap();
            std::os::unix::fs::symlink("deep/file", root.join("link")).unwrap();
            (dir, root)
        };
        let of = |root: &Path| digest(root).unwrap().unwrap();
        let (_one, same) = tree();
        type Change = fn(&Path);
        let all: [(&str, Change); 5] = [
            ("name", |root| {
                fs::rename(root.join("deep"), root.join("deeq")).unwrap()
            }),
            ("content", |root| {
                fs::write(root.join("deep/file"), "Content").unwrap()
            }),
            ("mode", |root| {
                let path = root.join("deep/er");
                fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
            }),
            ("target", |root| {
                fs::remove_file(root.join("link")).unwrap();
                std::os::unix::fs::symlink("deep/fil", root.join("link")).unwrap();
            }),
            ("more", |root| fs::write(root.join("empty"), "").unwrap()),
        ];
        for (what, change) in all {
            let (_two, other) = tree();
            assert_eq!(of(&same), of(&other));
            change(&other);
            assert_ne!(of(&same), of(&other), "{what}");
        }
        let file = same.join("deep/file");
        assert_ne!(of(&file), of(&same));
    }

    #[test]
    fn what_has_no_content_is_not_compared() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        assert_eq!(digest(dir.path()).unwrap(), None);
        let large = tempfile::tempdir().unwrap();
        let file = File::create(large.path().join("large")).unwrap();
        file.set_len(2 << 30).unwrap();
        assert_eq!(digest(large.path()).unwrap(), None);
        assert!(digest(&dir.path().join("nothing")).is_err());
    }
}
