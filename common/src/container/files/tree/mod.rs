//! A directory tree as tar entries, with everything a container can tell apart: owners, modes,
//! times to the nanosecond, extended attributes, holes, hard links, device nodes, FIFOs, and for an
//! overlay what was deleted from its lower layers.
//!
//! What tar's own headers have no room for is in records of our own (`records`). Sockets are left out:
//! CRIU creates them again.
//!
//! Names, types, attributes and sizes are a container's or a peer's choice, and may change while they are
//! looked at. They are data: nothing here follows a path that they make up.

mod beneath;
mod blocks;
mod contents;
mod exactly;
mod index;
mod pack;
mod records;
mod traced;
mod unpack;

use std::io;
use std::path::Path;

pub(crate) use exactly::Exactly;
pub use index::Index;
pub use pack::pack;
pub(crate) use records::Records;
pub use unpack::Unpacker;

/// What to pack.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A plain tree; unpacking makes the target equal to it.
    Plain(&'a Path),
    /// One regular file; unpacking makes the target equal to it.
    File(&'a Path),
    /// The changes that an overlay's `upper` directory holds; unpacking applies them to a target
    /// that shows the same lower layers. Contents are read through `merged`, which alone is right
    /// for metadata-only copies and redirected directories.
    Overlay {
        /// The upper directory.
        upper: &'a Path,
        /// The mounted overlay.
        merged: &'a Path,
    },
}

/// Whether anybody may write to a tree while it is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The container runs: what changes under our hands is sent again by a later pass.
    Live,
    /// Everything stands still; a change is an error.
    Frozen,
}

/// The name below its prefix of a file that is sent by itself.
const ONE_FILE: &str = "file";

/// The directory that has the file at `path`.
fn directory_of(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| invalid("not a file"))
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
