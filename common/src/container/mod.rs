//! The container on this host: everything that talks to Podman, the OCI runtime, CRIU and the
//! container's files. Networking is in [`crate::net`].

pub mod apparmor;
pub mod cargo;
pub mod command;
pub mod drain;
pub mod dump;
pub mod facts;
pub mod freezer;
pub mod gate;
pub mod health;
pub mod image;
mod images;
pub mod init;
pub mod podman;
pub mod processes;
pub mod repair;
mod restore_watch;
pub mod runtime;
pub mod service;
pub mod skeleton;
pub mod sockets;
pub mod spec;
pub mod starter;
pub mod stragglers;
pub mod timerfds;
pub mod tree;
pub mod usage;

pub use facts::ContainerFacts;
