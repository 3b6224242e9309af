//! The memory of a container's processes on its own way to another host: ahead of the checkpoint, and
//! into the processes after they have been restored.

pub mod images;
mod page_set;
mod pagemap;
pub mod pager;
pub mod process;
pub mod protobuf;
pub mod ranges;
mod reader;
pub mod rounds;
pub mod source;
pub mod store;
pub mod stream;
pub mod tracker;

/// Bytes of a page. Other architectures have larger ones; CRIU's images of them cannot be restored
/// here anyway.
pub const PAGE_BYTES: usize = 4096;
