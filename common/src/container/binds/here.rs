//! What the destination has for a bind mount.

use std::fs;
use std::io;
use std::path::Path;

use super::allowed::Allowed;
use super::bind::{Bind, InUse, Kind, Wish};
use super::content::digest;
use super::shared::Shared;
use super::volume::Volume;
use crate::host::Room;

/// What there is at a bind mount's path at the destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Here {
    /// What is there, if anything.
    pub kind: Option<Kind>,
    /// Whether a symbolic link is part of the path.
    pub through_link: bool,
    /// Whether it is the same file system's same directory or file as at the source.
    pub shared: bool,
    /// Whether all that is in it is the same as at the source. Only known if it had to be compared.
    pub same: bool,
    /// What the container has open in it, and CRIU would not find again here.
    pub differing: Vec<String>,
    /// Whether it is an empty directory.
    pub empty: bool,
    /// Whether something is mounted there, so that nothing can take its place.
    pub mounted: bool,
    /// Whether this host's operator lets peers bind it and put things there.
    pub allowed: bool,
    /// The volume of the same name, if it is a volume's.
    pub volume: Option<Volume>,
    /// Free space for it.
    pub room: Room,
}

impl Here {
    /// Looks. Changes nothing. Blocks, also for a network file system.
    pub fn look(bind: &Bind, allowed: &Allowed) -> io::Result<Self> {
        let path = bind.there();
        let mut here = Here {
            allowed: allowed.has(path),
            ..Here::default()
        };
        let metadata = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                here.room = Room::at(path);
                return Ok(here);
            }
            found => found?,
        };
        here.through_link = path.canonicalize()? != path.components().as_path();
        here.kind = Some(Kind::of(&metadata));
        if here.through_link {
            return Ok(here);
        }
        here.room = Room::at(path);
        let same = bind.shared.as_ref().zip(Shared::at(path));
        here.shared = same.is_some_and(|(there, here)| there.is(&here));
        if bind.is_sent() {
            here.empty = metadata.is_dir() && fs::read_dir(path)?.next().is_none();
            here.mounted = is_mount_point(path);
            return Ok(here);
        }
        if !here.shared {
            let open = bind.in_use.iter();
            let differ = open.filter(|(name, used)| !is_still(&path.join(name), used));
            here.differing = differ.map(|(name, _)| name.clone()).collect();
            let content = bind
                .content
                .filter(|_| matches!(bind.wish, Wish::Unsaid) || bind.read_only);
            here.same = content.is_some() && digest(path)? == content;
        }
        Ok(here)
    }
}

/// Whether CRIU takes this file for the one that was open.
fn is_still(path: &Path, used: &InUse) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| InUse::of(&found) == *used)
}

fn is_mount_point(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.any(|point| Path::new(&super::shared::plain(point)) == path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn look(bind: &Bind) -> Here {
        Here::look(bind, &Allowed::default()).unwrap()
    }

    #[test]
    fn what_is_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name).display().to_string();
        let mut bind = Bind {
            source: at("data"),
            wish: Wish::Send { overwrite: false },
            ..Bind::default()
        };
        assert_eq!(look(&bind).kind, None);
        fs::create_dir(root.join("data")).unwrap();
        let here = look(&bind);
        assert!(here.kind == Some(Kind::Directory) && here.empty && !here.mounted && !here.allowed);
        fs::write(root.join("data/file"), "x").unwrap();
        assert!(!look(&bind).empty);
        bind.source = "/proc".into();
        assert!(look(&bind).mounted);

        std::os::unix::fs::symlink("data", root.join("link")).unwrap();
        bind.source = at("link/file");
        assert!(look(&bind).through_link);
    }

    #[test]
    fn content_and_open_files_are_compared() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::write(root.join("file"), "x").unwrap();
        let metadata = fs::metadata(root.join("file")).unwrap();
        let used = |size| InUse {
            mode: metadata.mode(),
            size: Some(size),
        };
        let mut bind = Bind {
            source: root.display().to_string(),
            content: digest(&root).unwrap(),
            in_use: [("file".to_owned(), used(1))].into(),
            ..Bind::default()
        };
        let here = look(&bind);
        assert!(here.same && here.differing.is_empty());
        bind.content = Some([0; 32]);
        bind.in_use = [("file".to_owned(), used(2)), ("gone".to_owned(), used(2))].into();
        let here = look(&bind);
        assert!(!here.same);
        assert_eq!(here.differing, ["file", "gone"]);
    }
}
