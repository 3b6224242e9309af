//! The container's files: which travel, and how.

pub mod payload;
pub mod places;
pub mod tree;
pub mod usage;
