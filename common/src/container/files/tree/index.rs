//! What a tree held when it was packed.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::blocks::Blocks;

/// What a tree held when it was packed, to tell later what has changed since.
#[derive(Debug, Default)]
pub struct Index(pub(super) HashMap<PathBuf, Stamp>);

impl Index {
    /// Whether there was nothing in the tree.
    pub fn is_empty(&self) -> bool {
        self.0.keys().all(|path| path.as_os_str().is_empty())
    }

    /// Has the next pass send what the root itself is like, whether or not that has changed.
    pub fn forget_root(&mut self) {
        if let Some(root) = self.0.get_mut(Path::new("")) {
            root.settled = false;
        }
    }
}

#[derive(Debug)]
pub(super) struct Stamp {
    pub(super) inode: u64,
    bytes: u64,
    changed: SystemTime,
    pub(super) is_directory: bool,
    /// The next change is sure to get another time.
    pub(super) settled: bool,
    /// Of a large file: what was sent of it.
    pub(super) sent: Option<Arc<Blocks>>,
}

/// More than the kernel's clock for files goes on by at once: 10 ms where HZ is 100.
const TICK: Duration = Duration::from_millis(20);

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let changed = changed(metadata);
        Stamp {
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed,
            is_directory: metadata.is_dir(),
            settled: changed.elapsed().is_ok_and(|age| age > TICK),
            sent: None,
        }
    }

    /// Any write, and any change of owner, mode, attributes or links, sets the time of change, and
    /// no program can set it back (inode(7), ctime). A write through a mapping does so only when
    /// the page was clean, which is why a live pass syncs before it reads.
    pub(super) fn is_still(&self, metadata: &Metadata) -> bool {
        self.settled
            && self.inode == metadata.ino()
            && self.bytes == metadata.len()
            && self.changed == changed(metadata)
    }
}

fn changed(metadata: &Metadata) -> SystemTime {
    let since_epoch = Duration::new(
        metadata.ctime().max(0) as u64,
        metadata.ctime_nsec().max(0) as u32,
    );
    SystemTime::UNIX_EPOCH + since_epoch
}
