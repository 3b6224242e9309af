//! Directories and files of the host that are bound into a container (`--volume /path:/path`,
//! `--mount type=bind`): what they are, and what the destination has at their paths.

mod allowed;
mod bind;
mod content;
mod here;
mod look;
mod place;
mod shared;
mod volume;

pub use allowed::{Allowed, real};
pub use bind::{Bind, InUse, Kind, Wish, sent};
pub use here::Here;
pub use look::{measure, of_container};
pub use place::Made;
pub use shared::Shared;
pub use volume::Volume;
