//! Links, addresses, routes and policy rules, over rtnetlink.
//!
//! Blocking, like the rest of `net`: call from a thread that may block
//! (`tokio::task::spawn_blocking`), never from within an asynchronous task.

mod connection;
mod contents;
mod facts;
mod links;
mod order;
mod tables;

pub use connection::{RouteError, Routes};
pub use contents::{Address, Contents, Link, Route, Rule};
pub use facts::{Facts, PolicyRule};
