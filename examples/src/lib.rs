//! What the example workloads and their checker share.
//!
//! The workloads are small programs that keep the kinds of state that a migration must preserve:
//! memory, open files, locks, pipes, timers, and connections in both directions. Each notices when
//! some of that state has been lost, and says so. The checker, `load`, runs outside and checks the
//! same thing from the far end of the connections.
//!
//! Threads and blocking calls throughout: the programs must stay so simple that any fault they
//! report is the migration's and not their own.

pub mod counter;
pub mod echo;
pub mod frame;
pub mod probe;
pub mod process;
