//! Kernel objects, one kind per file: routes, netlink messages that `nft` does not send, namespaces,
//! settings of interfaces, connections of Unix sockets. Nothing here knows what a tunnel is for.

pub mod netns;
pub(crate) mod nfnetlink;
pub mod routes;
pub mod sysctl;
pub mod unix_diag;
