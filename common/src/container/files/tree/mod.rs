//! A directory tree as tar entries, with everything a container can tell apart: owners, modes,
//! times to the nanosecond, extended attributes, hard links, device nodes, FIFOs, and for an
//! overlay what was deleted from its lower layers.
//!
//! Two records of our own ride in PAX headers: `LIVEMIGRATION.opaque` (empty this directory
//! first) and a character device 0/0, which is overlayfs' own notation for a deleted name
//! (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories"). Sockets are left
//! out: CRIU binds them anew.

mod exactly;
mod index;
mod pack;
mod records;
mod unpack;

use std::path::Path;

pub(crate) use exactly::Exactly;
pub use index::Index;
pub use pack::pack;
pub use unpack::Unpacker;

/// What to pack.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A plain tree; unpacking makes the target equal to it.
    Plain(&'a Path),
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
