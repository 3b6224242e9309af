//! The container's files: which travel, and how.

pub mod cargo;
pub mod tree;
pub mod usage;
