//! The container on this host: everything that talks to Podman, the OCI runtime, CRIU and the
//! container's files. Networking is in [`crate::net`].

pub mod apparmor;
pub mod binds;
pub mod checkpoint;
mod edited;
pub mod facts;
pub mod files;
pub mod health;
pub mod init;
pub mod keyring;
pub mod leftover_processes;
pub mod names;
pub mod podman;
pub mod ports;
pub mod restore;
pub mod runtime;
pub mod secrets;
pub mod service;
pub mod sockets;
pub mod spec;

pub use facts::ContainerFacts;
