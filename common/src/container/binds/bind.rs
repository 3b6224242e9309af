//! A bind mount as its source host sees it, and what the user wants of it.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::shared::Shared;
use super::volume::Volume;
use crate::container::names;

/// A directory or file of the host that is bound into the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Its path on the source, with no symbolic link in it.
    #[serde(deserialize_with = "names::mount_point")]
    pub source: String,
    /// Where it is in the container.
    #[serde(deserialize_with = "names::mount_point")]
    pub destination: String,
    /// Whether the container may only read it.
    pub read_only: bool,
    /// What it is.
    pub kind: Kind,
    /// Why it cannot move whatever the user wants, in words.
    pub obstacle: Option<String>,
    /// Digest of all that is in it, if that can be compared: up to 1 GiB and 100,000 names.
    pub content: Option<[u8; 32]>,
    /// When it was changed last before it was compared, in seconds and nanoseconds.
    #[serde(skip)]
    pub compared: Option<(i64, i64)>,
    /// Disk space that it takes, bytes, if it is to be sent.
    pub bytes: u64,
    /// What it is on a file system that other hosts can have, too.
    pub shared: Option<Shared>,
    /// Files in it that the container has locked.
    pub locked: Vec<String>,
    /// What the container has open in it, by its path from there.
    pub in_use: BTreeMap<String, InUse>,
    /// The volume whose directory it is, if it is one's.
    #[serde(default)]
    pub volume: Option<Volume>,
    /// What the user wants of it.
    pub wish: Wish,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A directory.
    #[default]
    Directory,
    /// A regular file.
    File,
    /// A socket, a device or the like: it has no content.
    Special,
}

impl Kind {
    /// Of a file with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        match metadata {
            found if found.is_dir() => Kind::Directory,
            found if found.is_file() => Kind::File,
            _ => Kind::Special,
        }
    }
}

/// What CRIU wants to find again of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InUse {
    /// Type and permissions, as `st_mode` has them.
    pub mode: u32,
    /// Length in bytes, of a regular file.
    pub size: Option<u64>,
}

impl InUse {
    /// What `metadata` says.
    pub fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        InUse {
            mode: metadata.mode(),
            size: metadata.is_file().then_some(metadata.len()),
        }
    }
}

/// What is to become of a bind mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Nothing was said: it is kept if the destination has the same.
    #[default]
    Unsaid,
    /// What the destination has at its path takes its place.
    Keep,
    /// What the destination has at this path takes its place.
    At {
        /// The path.
        #[serde(deserialize_with = "names::mount_point")]
        path: String,
    },
    /// It is sent, to the same path.
    Send {
        /// Whether it may take the place of what is there.
        overwrite: bool,
    },
}

impl Bind {
    /// Its path at the destination.
    pub fn there(&self) -> &Path {
        match &self.wish {
            Wish::At { path } => Path::new(path),
            _ => Path::new(&self.source),
        }
    }

    /// Whether a file that the container may write to, and that was compared, has changed since. Blocks.
    pub fn has_changed(&self) -> bool {
        let writable = self.kind == Kind::File && !self.read_only && self.wish == Wish::Unsaid;
        writable && self.compared != changed(Path::new(&self.source))
    }

    /// Fails unless its path at the destination exists and has no symbolic link in it. Blocks.
    pub fn is_direct(&self) -> io::Result<()> {
        let there = self.there();
        match there.canonicalize() {
            Ok(real) if real == there.components().as_path() => Ok(()),
            Ok(_) => Err(io::Error::other(format!(
                "{}: a link leads there",
                there.display()
            ))),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("{}: {error}", there.display()),
            )),
        }
    }

    /// Whether it is sent.
    pub fn is_sent(&self) -> bool {
        matches!(self.wish, Wish::Send { .. })
    }
}

/// When what is at `path` was changed last.
pub(super) fn changed(path: &Path) -> Option<(i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok()?;
    Some((found.ctime(), found.ctime_nsec()))
}

/// Those of `binds` that are sent, without those that are part of another one.
pub fn sent(binds: &[Bind]) -> Vec<&Bind> {
    let wanted: Vec<&Bind> = binds.iter().filter(|bind| bind.is_sent()).collect();
    let covers = |other: &Bind, bind: &Bind| Path::new(&bind.source).starts_with(&other.source);
    let is_part = |at: usize| {
        let bind = wanted[at];
        let mut others = wanted.iter().enumerate();
        others.any(|(number, other)| covers(other, bind) && (!covers(bind, other) || number < at))
    };
    (0..wanted.len())
        .filter(|at| !is_part(*at))
        .map(|at| wanted[at])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_part_of_another_is_sent_with_it() {
        let bind = |source: &str, sent: bool| Bind {
            source: source.into(),
            wish: match sent {
                true => Wish::Send { overwrite: false },
                false => Wish::Keep,
            },
            ..Bind::default()
        };
        let binds = [
            bind("/srv/a/b", true),
            bind("/srv/a", true),
            bind("/srv", false),
            bind("/srv/a", true),
            bind("/srv/ab", true),
        ];
        let sent: Vec<&str> = sent(&binds).iter().map(|b| b.source.as_str()).collect();
        assert_eq!(sent, ["/srv/a", "/srv/ab"]);
    }
}
