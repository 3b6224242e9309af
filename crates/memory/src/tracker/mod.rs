//! Which pages may have changed since they were sent.
//!
//! A tracker may name pages that have not changed; it never leaves out one that has.

mod choice;
mod doubts;
mod hashes;
mod inject;
mod pass;
mod protection;
mod sending;
mod userfault;

pub use self::choice::Abilities;
pub(crate) use self::choice::{choose, hashes};
pub use self::doubts::Doubt;
pub use self::inject::InjectError;
pub use self::pass::{Kind, Pass, PassError, Sink, State};
pub(crate) use self::pass::{TrackError, Tracker};
