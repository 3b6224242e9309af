//! What the example workloads and their checker share.
//!
//! The workloads are small programs that keep the kinds of state a migration must carry: memory,
//! open files, locks, pipes, timers, and connections in both directions. Each one notices by
//! itself when some of that state was lost, and says so. The checker, `load`, stands outside and
//! looks at the same thing from the far end of the connections.
//!
//! Threads and blocking calls throughout: the programs must stay simple enough that a fault they
//! report is the migration's and not their own.

pub mod counter;
pub mod echo;
pub mod frame;
pub mod probe;
pub mod process;
